//! Holes of a template's text: `[[ … ]]` marks what the task asks for. They are read in the source, before values are filled in.

/// A piece of a text: a template of its own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Piece {
    pub source: String,
    pub is_hole: bool,
}

/// Cuts the source of a text at its holes. White space beside `[[` and `]]` belongs to the hole. Brackets within `{{ }}`, `{% %}` and `{# #}` are
/// text. A source without holes is one piece, which is a hole if `whole_is_hole`. The error is the problem.
pub(super) fn pieces(source: &str, whole_is_hole: bool) -> Result<Vec<Piece>, String> {
    // As minijinja does with a whole template.
    let source = source.strip_suffix('\n').map_or(source, |rest| rest.strip_suffix('\r').unwrap_or(rest));
    let mut pieces: Vec<Piece> = Vec::new();
    let (mut piece, mut rest, mut is_hole) = (String::new(), source, false);
    while let Some(first) = rest.chars().next() {
        if let Some(len) = block(rest) {
            piece.push_str(&rest[..len]);
            rest = &rest[len..];
        } else if let Some(behind) = rest.strip_prefix("[[") {
            if is_hole {
                return Err(format!("a hole [[ stands inside another, before {:?}", start_of(behind)));
            }
            let text = piece.trim_end();
            let space = piece.split_off(text.len());
            if piece.is_empty() && !pieces.is_empty() {
                return Err(format!("two holes stand side by side, before {:?}: put text between them", start_of(behind)));
            }
            pieces.extend(text_piece(std::mem::replace(&mut piece, space)));
            (rest, is_hole) = (behind, true);
        } else if let Some(behind) = rest.strip_prefix("]]") {
            if !is_hole {
                return Err(format!("]] closes no hole, before {:?}", start_of(behind)));
            }
            if piece.trim().is_empty() {
                return Err("a hole [[ ]] holds nothing".into());
            }
            let next = behind.trim_start();
            piece.push_str(&behind[..behind.len() - next.len()]);
            pieces.push(Piece { source: std::mem::take(&mut piece), is_hole: true });
            (rest, is_hole) = (next, false);
        } else {
            piece.push(first);
            rest = &rest[first.len_utf8()..];
        }
    }
    if is_hole {
        return Err(format!("a hole [[ is not closed, before {:?}", start_of(piece.trim_start())));
    }
    if pieces.is_empty() {
        return Ok(vec![Piece { source: piece, is_hole: whole_is_hole }]);
    }
    pieces.extend(text_piece(piece));
    Ok(pieces)
}

fn text_piece(source: String) -> Option<Piece> {
    (!source.is_empty()).then_some(Piece { source, is_hole: false })
}

/// Returns the length of the expression, statement or comment that `text` begins with; up to its end if it is not closed, which the engine reports.
fn block(text: &str) -> Option<usize> {
    let (close, has_strings) = match text.get(..2)? {
        "{{" => ("}}", true),
        "{%" => ("%}", true),
        "{#" => ("#}", false),
        _ => return None,
    };
    let mut quote = None;
    let mut characters = text.char_indices().skip(2);
    while let Some((place, character)) = characters.next() {
        match (quote, character) {
            (Some(_), '\\') => {
                characters.next();
            }
            (Some(open), _) => quote = Some(open).filter(|open| *open != character),
            (None, '"' | '\'') if has_strings => quote = Some(character),
            (None, _) if text[place..].starts_with(close) => return Some(place + close.len()),
            (None, _) => {}
        }
    }
    Some(text.len())
}

/// Returns the first characters of `text`, to say where a problem is.
fn start_of(text: &str) -> &str {
    text.char_indices().nth(20).map_or(text, |(end, _)| &text[..end])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cut(source: &str) -> Vec<(String, bool)> {
        pieces(source, true).expect("a good text").into_iter().map(|piece| (piece.source, piece.is_hole)).collect()
    }

    fn refused(source: &str) -> String {
        pieces(source, true).expect_err("a bad text")
    }

    #[test]
    fn a_text_is_cut_at_its_holes_and_white_space_belongs_to_them() {
        let found = |pieces: &[(&str, bool)]| pieces.iter().map(|(source, hole)| ((*source).to_owned(), *hole)).collect::<Vec<_>>();
        assert_eq!(cut("{{ caption }}"), found(&[("{{ caption }}", true)]));
        assert_eq!(cut("A \n [[ {{ b }}. ]]\n C [[d]]"), found(&[("A", false), (" \n  {{ b }}. \n ", true), ("C", false), (" d", true)]));
        assert_eq!(cut("[[a]] b"), found(&[("a ", true), ("b", false)]));
        assert_eq!(cut("[[ä]]é"), found(&[("ä", true), ("é", false)]));
        assert_eq!(pieces("a", false), Ok(vec![Piece { source: "a".into(), is_hole: false }]));
        assert_eq!((cut("a\n"), cut("a\n\n")), (found(&[("a", true)]), found(&[("a\n", true)])));
        assert_eq!(cut(""), found(&[("", true)]));
    }

    #[test]
    fn brackets_in_expressions_are_text() {
        for text in [
            "{{ \"[[\" }}",
            "{{ a[[0][0]] }}",
            "{% if a == ']]' %}b{% endif %}",
            "{# [[ #}",
            "{{ '}}[[' }}",
            "{{ \"\\\"}}[[\" }}",
            "[ [a] ]",
            "{{ [[ open",
        ] {
            assert_eq!(cut(text), [(text.to_owned(), true)]);
        }
        assert_eq!(cut("{{ q }}[[{{ \"]]\" }}]]").len(), 2);
    }

    #[test]
    fn holes_that_do_not_close_or_stand_in_each_other_are_refused() {
        assert_eq!(refused("a [[ b"), "a hole [[ is not closed, before \"b\"");
        assert_eq!(refused("a [[ b [[ c ]] ]]"), "a hole [[ stands inside another, before \" c ]] ]]\"");
        assert_eq!(refused("a ]] b"), "]] closes no hole, before \" b\"");
        assert_eq!(refused("a [[ ]]"), "a hole [[ ]] holds nothing");
        assert_eq!(refused("[[a]] [[b]]"), "two holes stand side by side, before \"b]]\": put text between them");
    }

    proptest::proptest! {
        #[test]
        fn no_text_panics_and_pieces_join_to_it(source in "[\\[\\]{}%#'\"\\\\ a\nä]{0,24}") {
            if let Ok(pieces) = pieces(&source, true) {
                let joined: String = pieces.iter().map(|piece| piece.source.as_str()).collect();
                let whole = source.strip_suffix('\n').unwrap_or(&source);
                if pieces.len() == 1 && joined == whole {
                    return Ok(());
                }
                proptest::prop_assert_eq!(joined.matches(|c| c != '[' && c != ']').count(), whole.matches(|c| c != '[' && c != ']').count());
                proptest::prop_assert!(pieces.windows(2).all(|pair| pair[0].is_hole != pair[1].is_hole));
            }
        }
    }
}
