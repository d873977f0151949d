"""A tiny Chameleon with random weights, trained from shards as any user of Hugging Face transformers would.

The loss is taken from `model.model` and `lm_head`: the model's own `labels=` path masks the logits of image tokens. Under `torchrun` it trains
data-parallel over gloo. Prints the losses of both modalities, step by step, as JSON lines (rank 0 alone).
"""

import argparse
import json

import torch
import torch.distributed
from cm3flow import Modality, PackedDataset
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader
from transformers import ChameleonConfig, ChameleonForConditionalGeneration


def tiny(vocabulary, seq_len):
    """The model over the vocabulary of a manifest."""
    image = vocabulary["image"]

    def name(code):
        return "IMGIMG" + "".join(chr(ord("A") + int(digit)) for digit in str(code)) + "Z"

    names = {name(code): image["start"] + code for code in range(image["len"])}
    config = ChameleonConfig(
        vocab_size=vocabulary["size"], hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=4,
        max_position_embeddings=seq_len, pad_token_id=vocabulary["pad"], bos_token_id=vocabulary["boundary"], eos_token_id=vocabulary["boundary"],
        vocabulary_map={**names, "<image>": vocabulary["size"] - 1}, attn_implementation="sdpa",
        vq_config={"base_channels": 32, "channel_multiplier": [1], "num_res_blocks": 1, "embed_dim": 8, "latent_channels": 8, "num_embeddings": image["len"], "resolution": 32},
    )
    return ChameleonForConditionalGeneration(config)


class Losses(torch.nn.Module):
    """Summed losses and numbers of tokens of text and image, so that data-parallel wrappers see one forward."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, tokens, positions, mask, weights, modalities):
        hidden = self.model.model(input_ids=tokens, position_ids=positions, attention_mask=mask, use_cache=False)[0]
        logits = self.model.lm_head(hidden[:, :-1])
        losses = torch.nn.functional.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten(), reduction="none").view_as(weights[:, 1:])
        parts = []
        for modality in (Modality.TEXT, Modality.IMAGE):
            chosen = weights[:, 1:] * (modalities[:, 1:] == modality)
            parts.append((losses * chosen).sum() / chosen.sum().clamp(min=1))
        return torch.stack(parts)


def main():
    arguments = argparse.ArgumentParser()
    arguments.add_argument("uri")
    arguments.add_argument("--steps", type=int, default=30)
    arguments.add_argument("--batch-size", type=int, default=8)
    arguments.add_argument("--workers", type=int, default=0)
    arguments = arguments.parse_args()
    torch.manual_seed(1)
    torch.set_num_threads(1)
    is_parallel = torch.distributed.is_torchelastic_launched()
    if is_parallel:
        torch.distributed.init_process_group("gloo")
    dataset = PackedDataset(arguments.uri, arguments.batch_size, seed=1)
    described = dataset.describe()["packs"]
    losses_of = Losses(tiny(described["vocabulary"], described["seq_len"]))
    # The parts that turn pixels into codes have no part in this: the codes are in the shards.
    losses_of.model.model.vqmodel.requires_grad_(False)
    trained = DistributedDataParallel(losses_of) if is_parallel else losses_of
    optimizer = torch.optim.AdamW([weights for weights in losses_of.parameters() if weights.requires_grad], lr=3e-3)
    loader = DataLoader(dataset, batch_size=None, num_workers=arguments.workers)
    for step, batch in zip(range(arguments.steps), loader):
        losses = trained(batch.tokens, batch.positions(), batch.attention_mask(), batch.loss_weights(), batch.modalities())
        optimizer.zero_grad()
        losses.sum().backward()
        optimizer.step()
        losses = losses.detach()
        if is_parallel:
            torch.distributed.all_reduce(losses)
            losses /= torch.distributed.get_world_size()
        if not is_parallel or torch.distributed.get_rank() == 0:
            print(json.dumps({"step": step, "text": losses[0].item(), "image": losses[1].item(), "position": batch.state["position"]}), flush=True)
    if is_parallel:
        # A rank that leaves while the other one still reduces may leave it waiting for ever.
        torch.distributed.barrier()
        torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main()
