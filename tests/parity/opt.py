"""Computes with transformers' OPTForCausalLM what cm3flow's decoder is compared with: logits, gradients, weights after 20 steps, greedy tokens.

    python opt.py            compares the stored results with those of this installation; exit code 1 if they differ
    python opt.py --golden   writes golden/opt/, which `cargo test` reads
    python opt.py BUNDLE     loads an exported bundle and continues a prompt with it
"""

import argparse
import pathlib
import sys

import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer, OPTConfig, OPTForCausalLM

GOLDEN = pathlib.Path(__file__).parent / "golden" / "opt"
# The vocabulary of the tests: control tokens 0 to 3, 20 ids of text, 16 codes, <break>, <eoss>, two sentinels, reserved ids.
IDS, FIRST_CODE, CODES, BREAK, BOUNDARY = 64, 24, 16, 40, 2
SEQ_LEN = 320
# Logits of so many tokens at the end of a row are stored: they depend on all tokens before.
STORED_TOKENS = 16


def model() -> OPTForCausalLM:
    """A small model whose every part matters."""
    torch.manual_seed(1)
    config = OPTConfig(
        vocab_size=IDS,
        hidden_size=16,
        word_embed_proj_dim=16,
        ffn_dim=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=SEQ_LEN,
        activation_function="relu",
        do_layer_norm_before=True,
        enable_bias=False,
        layer_norm_elementwise_affine=False,
        dropout=0.0,
        attention_dropout=0.0,
        layerdrop=0.0,
        tie_word_embeddings=True,
        attn_implementation="eager",
    )
    made = OPTForCausalLM(config)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.uniform_(-0.4, 0.4)
    return made


def results(made: OPTForCausalLM) -> dict[str, torch.Tensor]:
    """Everything that is compared, in f32."""
    generator = torch.Generator().manual_seed(2)
    ids = torch.randint(4, 44, (2, SEQ_LEN), generator=generator)
    out = made(input_ids=ids, labels=ids)
    found = {"ids": ids.float(), "logits": out.logits[:, -STORED_TOKENS:].detach(), "loss": out.loss.detach().reshape([])}
    prompt = torch.tensor([[BOUNDARY, 4, 9, 7, 20, BREAK]])
    continued = made.generate(
        prompt,
        do_sample=False,
        max_new_tokens=256,
        min_new_tokens=256,
        eos_token_id=None,
        pad_token_id=1,
        prefix_allowed_tokens_fn=lambda _row, _ids: list(range(FIRST_CODE, FIRST_CODE + CODES)),
    )
    found |= {"prompt": prompt.float(), "continued": continued[:, prompt.shape[1] :].float()}
    optimizer = torch.optim.AdamW(made.parameters(), lr=1e-3, betas=(0.9, 0.95), eps=1e-8, weight_decay=0.1)
    for step in range(20):
        optimizer.zero_grad()
        made(input_ids=ids, labels=ids).loss.backward()
        if step == 0:
            found |= {f"gradient.{name}": parameter.grad.clone() for name, parameter in made.named_parameters()}
        torch.nn.utils.clip_grad_norm_(made.parameters(), 1.0)
        optimizer.step()
    return found | {f"trained.{name}": parameter.detach() for name, parameter in made.named_parameters()}


def use(folder: str) -> None:
    """Continues a prompt of text by an image's tokens, with nothing but the bundle."""
    loaded, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    prompt = "a photo of a dog"
    ids = [tokenizer.bos_token_id, *tokenizer(prompt, add_special_tokens=False).input_ids, tokenizer.convert_tokens_to_ids("<break>")]
    images = [id for name, id in tokenizer.get_vocab().items() if name.startswith("<image:")]
    out = loaded.generate(
        torch.tensor([ids]), do_sample=False, max_new_tokens=16, min_new_tokens=16, prefix_allowed_tokens_fn=lambda _row, _ids: images
    )
    print(tokenizer.decode(out[0]))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", nargs="?")
    parser.add_argument("--golden", action="store_true")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.bundle:
        use(arguments.bundle)
        return 0
    if arguments.golden:
        made = model()
        made.save_pretrained(GOLDEN)
        save_file({name: tensor.contiguous() for name, tensor in results(made).items()}, GOLDEN / "expected.safetensors")
        (GOLDEN / "generation_config.json").unlink(missing_ok=True)
        return 0
    stored = load_file(GOLDEN / "expected.safetensors")
    found = results(OPTForCausalLM.from_pretrained(GOLDEN, attn_implementation="eager"))
    worst = 0.0
    for name, tensor in found.items():
        difference = (tensor - stored[name]).abs().max().item()
        worst = max(worst, difference)
        if not torch.allclose(tensor, stored[name], rtol=1e-4, atol=1e-4):
            print(f"{name} differs by {difference}")
            return 1
    print(f"OPTForCausalLM: {len(found)} results equal the stored ones, the largest difference is {worst:.1e}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
