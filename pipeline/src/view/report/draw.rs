//! SVG drawings. Only numbers and our own names go in, never text from data.

use std::fmt::Write;

use cm3flow_schemas::document::{Modality, Role, Segment};
use cm3flow_schemas::pack::Pack;

/// Returns the class of a segment in the page's style sheet, which sets its colour.
pub(super) const fn class(segment: &Segment) -> &'static str {
    match (segment.role, segment.modality) {
        (Role::Sentinel | Role::SpanEnd, _) => "mask",
        (_, Modality::Control) => "control",
        (Role::Retrieved, Modality::Text) => "retrieved-text",
        (Role::Retrieved, Modality::Image) => "retrieved-image",
        (_, Modality::Text) => "text",
        (_, Modality::Image) => "image",
    }
}

/// Draws a row of segments; `scale` is the width of one token.
fn segments_row(out: &mut String, segments: &[Segment], y: usize, height: usize, scale: f64) {
    for segment in segments {
        let (x, width) = (f64::from(segment.start) * scale, (f64::from(segment.len) * scale).max(1.0));
        let _ = write!(out, r#"<rect class="{}" x="{x:.1}" y="{y}" width="{width:.1}" height="{height}"/>"#, class(segment));
    }
}

/// Draws the segments of one document.
pub(super) fn document(segments: &[Segment], tokens: usize) -> String {
    const WIDTH: f64 = 1000.0;
    let mut out = format!(r#"<svg viewBox="0 0 {WIDTH} 16" class="strip" role="img" aria-label="segments of a document">"#);
    segments_row(&mut out, segments, 0, 16, WIDTH / tokens.max(1) as f64);
    out + "</svg>"
}

/// Draws packs one below the other, with ticks between documents and white padding.
pub(super) fn packs(packs: &[Pack]) -> String {
    const WIDTH: f64 = 1000.0;
    const ROW: usize = 20;
    let height = packs.len() * ROW;
    let mut out = format!(r#"<svg viewBox="0 0 {WIDTH} {height}" class="packs" role="img" aria-label="packs and their documents">"#);
    for (index, pack) in packs.iter().enumerate() {
        let (y, scale) = (index * ROW, WIDTH / pack.tokens.len().max(1) as f64);
        let _ = write!(out, r#"<rect class="padding" x="0" y="{y}" width="{WIDTH}" height="{}"/>"#, ROW - 4);
        segments_row(&mut out, &pack.segments, y, ROW - 4, scale);
        for document in &pack.documents {
            let x = f64::from(document.start) * scale;
            let _ = write!(out, r#"<line class="tick" x1="{x:.1}" x2="{x:.1}" y1="{y}" y2="{}"/>"#, y + ROW - 2);
        }
    }
    out + "</svg>"
}

/// A curve with its class name in the style sheet.
pub(super) struct Curve {
    pub class: &'static str,
    pub points: Vec<(f64, f64)>,
    /// `true` to draw dots joined by a line, for few points.
    pub dots: bool,
}

/// Draws curves over common axes.
pub(super) fn curves(curves: &[Curve]) -> String {
    const LEFT: f64 = 50.0;
    const RIGHT: f64 = 980.0;
    const TOP: f64 = 10.0;
    const BOTTOM: f64 = 270.0;
    let all = || curves.iter().flat_map(|curve| &curve.points);
    let max_x = all().map(|point| point.0).fold(1.0, f64::max);
    let max_y = all().map(|point| point.1).fold(0.0, f64::max).max(1e-9) * 1.05;
    let place = |(x, y): (f64, f64)| (LEFT + (RIGHT - LEFT) * x / max_x, BOTTOM - (BOTTOM - TOP) * y / max_y);
    let mut out = String::from(r#"<svg viewBox="0 0 1000 300" class="curves" role="img" aria-label="losses by step">"#);
    for tick in 0..=4 {
        let (x, y) = (max_x * f64::from(tick) / 4.0, max_y * f64::from(tick) / 4.0);
        let (px, py) = place((x, y));
        let _ = write!(out, r#"<line class="grid" x1="{LEFT}" x2="{RIGHT}" y1="{py:.1}" y2="{py:.1}"/>"#);
        let _ = write!(out, r#"<text x="{:.1}" y="{:.1}" text-anchor="end">{y:.1}</text>"#, LEFT - 6.0, py + 4.0);
        let _ = write!(out, r#"<text x="{px:.1}" y="{:.1}" text-anchor="middle">{x:.0}</text>"#, BOTTOM + 20.0);
    }
    for curve in curves {
        let points: Vec<(f64, f64)> = curve.points.iter().map(|&point| place(point)).collect();
        let line: Vec<String> = points.iter().map(|(x, y)| format!("{x:.1},{y:.1}")).collect();
        let _ = write!(out, r#"<polyline class="{}" points="{}"/>"#, curve.class, line.join(" "));
        for (x, y) in points.iter().filter(|_| curve.dots) {
            let _ = write!(out, r#"<circle class="{}" cx="{x:.1}" cy="{y:.1}" r="4"/>"#, curve.class);
        }
    }
    out + "</svg>"
}
