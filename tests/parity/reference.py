"""Image tokenizers that cm3flow is compared with, each behind the same few methods.

`ChameleonVQVAE` comes from transformers and `VQModel` from diffusers. `Vqgan` is written here in plain PyTorch, with the module names of
taming-transformers, since neither that nor LlamaGen is a package; transformers' `JanusVQVAE`, which is LlamaGen's network under other names,
vouches for it (`janus_differs_by`). What LlamaGen calls its modules is in `llamagen_names`.
"""

import re

import torch
import torch.nn.functional as F
from torch import nn


class Residual(nn.Module):
    def __init__(self, channels_in, channels_out, groups):
        super().__init__()
        self.norm1, self.conv1 = nn.GroupNorm(groups, channels_in, eps=1e-6), nn.Conv2d(channels_in, channels_out, 3, padding=1)
        self.norm2, self.conv2 = nn.GroupNorm(groups, channels_out, eps=1e-6), nn.Conv2d(channels_out, channels_out, 3, padding=1)
        self.nin_shortcut = nn.Conv2d(channels_in, channels_out, 1) if channels_in != channels_out else None

    def forward(self, x):
        h = self.norm1(x)
        h = self.conv1(h * torch.sigmoid(h))
        h = self.norm2(h)
        h = self.conv2(h * torch.sigmoid(h))
        return h + (x if self.nin_shortcut is None else self.nin_shortcut(x))


class Attention(nn.Module):
    def __init__(self, channels, groups):
        super().__init__()
        self.norm = nn.GroupNorm(groups, channels, eps=1e-6)
        self.q, self.k, self.v, self.proj_out = (nn.Conv2d(channels, channels, 1) for _ in range(4))

    def forward(self, x):
        normed = self.norm(x)
        q, k, v = (layer(normed).flatten(2) for layer in (self.q, self.k, self.v))
        weights = torch.softmax(q.transpose(1, 2) @ k / x.shape[1] ** 0.5, dim=2)
        return x + self.proj_out((v @ weights.transpose(1, 2)).reshape(x.shape))


class Downsample(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, stride=2)

    def forward(self, x):
        return self.conv(F.pad(x, (0, 1, 0, 1)))


class Upsample(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x):
        return self.conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))


class Level(nn.Module):
    """Residual blocks, each followed by attention or not, then a change of side or none."""

    def __init__(self, widths, groups, has_attention):
        super().__init__()
        self.block = nn.ModuleList(Residual(before, after, groups) for before, after in zip(widths, widths[1:]))
        self.attn = nn.ModuleList(Attention(width, groups) for width in widths[1:] if has_attention)

    def forward(self, x):
        for index, block in enumerate(self.block):
            x = block(x)
            if len(self.attn) > 0:
                x = self.attn[index](x)
        return x


class Middle(nn.Module):
    def __init__(self, channels, groups):
        super().__init__()
        self.block_1, self.attn_1 = Residual(channels, channels, groups), Attention(channels, groups)
        self.block_2 = Residual(channels, channels, groups)

    def forward(self, x):
        return self.block_2(self.attn_1(self.block_1(x)))


class Encoder(nn.Module):
    def __init__(self, config):
        super().__init__()
        groups, width = config["norm_groups"], config["channels"]
        self.conv_in = nn.Conv2d(3, width, 3, padding=1)
        self.down = nn.ModuleList()
        for index, multiplier in enumerate(config["channel_multipliers"]):
            after = config["channels"] * multiplier
            level = Level([width] + [after] * config["residual_blocks"], groups, config["resolution"] >> index in config["attention_resolutions"])
            if index + 1 < len(config["channel_multipliers"]):
                level.downsample = Downsample(after)
            self.down.append(level)
            width = after
        self.mid = Middle(width, groups)
        self.norm_out, self.conv_out = nn.GroupNorm(groups, width, eps=1e-6), nn.Conv2d(width, config["z_channels"], 3, padding=1)

    def forward(self, x):
        h = self.conv_in(x)
        for level in self.down:
            h = level(h)
            if hasattr(level, "downsample"):
                h = level.downsample(h)
        h = self.norm_out(self.mid(h))
        return self.conv_out(h * torch.sigmoid(h))


class Decoder(nn.Module):
    def __init__(self, config):
        super().__init__()
        groups, width = config["norm_groups"], config["channels"] * config["channel_multipliers"][-1]
        self.conv_in, self.mid = nn.Conv2d(config["z_channels"], width, 3, padding=1), Middle(width, groups)
        levels = []
        for index, multiplier in reversed(list(enumerate(config["channel_multipliers"]))):
            after = config["channels"] * multiplier
            has_attention = config["resolution"] >> index in config["attention_resolutions"]
            level = Level([width] + [after] * (config["residual_blocks"] + 1), groups, has_attention)
            if index > 0:
                level.upsample = Upsample(after)
            levels.append(level)
            width = after
        # Numbered by side, the widest picture first; computed the other way round.
        self.up = nn.ModuleList(reversed(levels))
        self.norm_out, self.conv_out = nn.GroupNorm(groups, width, eps=1e-6), nn.Conv2d(width, 3, 3, padding=1)

    def forward(self, z):
        h = self.mid(self.conv_in(z))
        for level in reversed(self.up):
            h = level(h)
            if hasattr(level, "upsample"):
                h = level.upsample(h)
        h = self.norm_out(h)
        return self.conv_out(h * torch.sigmoid(h))


class Vqgan(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.normalised = config["l2_normalized_codes"]
        self.encoder, self.decoder = Encoder(config), Decoder(config)
        self.quantize = nn.Module()
        self.quantize.embedding = nn.Embedding(config["codebook_size"], config["embedding_dim"])
        self.quant_conv = nn.Conv2d(config["z_channels"], config["embedding_dim"], 1)
        self.post_quant_conv = nn.Conv2d(config["embedding_dim"], config["z_channels"], 1)

    def latents(self, pixels):
        return self.quant_conv(self.encoder(pixels))

    def vectors(self):
        return F.normalize(self.quantize.embedding.weight, dim=-1) if self.normalised else self.quantize.embedding.weight

    def codes(self, latents):
        z = latents.permute(0, 2, 3, 1).flatten(0, 2)
        z, e = F.normalize(z, dim=-1) if self.normalised else z, self.vectors()
        distances = (z**2).sum(1, keepdim=True) + (e**2).sum(1) - 2 * z @ e.T
        return distances.argmin(1).reshape(latents.shape[0], *latents.shape[2:])

    def decode(self, codes):
        return self.decoder(self.post_quant_conv(F.embedding(codes, self.vectors()).permute(0, 3, 1, 2)))


class Chameleon:
    """`ChameleonVQVAE` of transformers, which has no decoder."""

    normalised = False

    def __init__(self, config):
        from transformers import ChameleonVQVAEConfig
        from transformers.models.chameleon.modeling_chameleon import ChameleonVQVAE

        names = {
            "resolution": "resolution",
            "channels": "base_channels",
            "channel_multipliers": "channel_multiplier",
            "residual_blocks": "num_res_blocks",
            "attention_resolutions": "attn_resolutions",
            "z_channels": "latent_channels",
            "embedding_dim": "embed_dim",
            "codebook_size": "num_embeddings",
        }
        self.module = ChameleonVQVAE(ChameleonVQVAEConfig(**{theirs: config[ours] for ours, theirs in names.items()}, double_latent=False))

    def latents(self, pixels):
        return self.module.quant_conv(self.module.encoder(pixels))

    def codes(self, latents):
        _, _, codes = self.module.quantize(latents)
        return codes.reshape(latents.shape[0], *latents.shape[2:])

    def decode(self, codes):
        return None


class Diffusers:
    """`VQModel` of diffusers."""

    normalised = False

    def __init__(self, config):
        from diffusers import VQModel

        attention = [config["resolution"] >> level in config["attention_resolutions"] for level in range(len(config["channel_multipliers"]))]
        self.module = VQModel(
            down_block_types=tuple("AttnDownEncoderBlock2D" if has else "DownEncoderBlock2D" for has in attention),
            up_block_types=tuple("AttnUpDecoderBlock2D" if has else "UpDecoderBlock2D" for has in reversed(attention)),
            block_out_channels=tuple(config["channels"] * multiplier for multiplier in config["channel_multipliers"]),
            layers_per_block=config["residual_blocks"],
            latent_channels=config["z_channels"],
            vq_embed_dim=config["embedding_dim"],
            num_vq_embeddings=config["codebook_size"],
            norm_num_groups=config["norm_groups"],
            mid_block_add_attention=config["middle_attention"],
            lookup_from_codebook=True,
        )

    def latents(self, pixels):
        return self.module.encode(pixels).latents

    def codes(self, latents):
        _, _, (_, _, codes) = self.module.quantize(latents)
        return codes.reshape(latents.shape[0], *latents.shape[2:])

    def decode(self, codes):
        shape = (*codes.shape, self.module.config.vq_embed_dim)
        return self.module.decode(codes.flatten(), force_not_quantize=True, shape=shape).sample


def llamagen_names(tensors, levels):
    """Names of LlamaGen's `tokenizer/tokenizer_image/vq_model.py` for those of taming-transformers, with the buffer that it keeps."""

    def renamed(name):
        name = re.sub(r"^(encoder)\.down\.(\d+)\.", r"\1.conv_blocks.\2.", name)
        name = re.sub(r"^decoder\.up\.(\d+)\.", lambda match: f"decoder.conv_blocks.{levels - 1 - int(match[1])}.", name)
        name = re.sub(r"^(\w+\.conv_blocks\.\d+)\.block\.", r"\1.res.", name)
        return re.sub(r"\.mid\.(block_1|attn_1|block_2)\.", lambda match: f".mid.{['block_1', 'attn_1', 'block_2'].index(match[1])}.", name)

    return {**{renamed(name): tensor for name, tensor in tensors.items()}, "quantize.codebook_used": torch.zeros(65536)}


def janus_differs_by(vqgan, config, pixels):
    """Largest differences of latents and decoded pixels between `vqgan` and transformers' `JanusVQVAE` with the same weights."""
    from transformers import JanusVQVAEConfig
    from transformers.models.janus.modeling_janus import JanusVQVAE

    levels = len(config["channel_multipliers"])
    janus = JanusVQVAE(
        JanusVQVAEConfig(
            embed_dim=config["embedding_dim"],
            num_embeddings=config["codebook_size"],
            double_latent=False,
            latent_channels=config["z_channels"],
            num_patches=config["resolution"] >> levels - 1,
            base_channels=config["channels"],
            channel_multiplier=config["channel_multipliers"],
            num_res_blocks=config["residual_blocks"],
        )
    )
    flip = lambda name: re.sub(r"^decoder\.up\.(\d+)", lambda match: f"decoder.up.{levels - 1 - int(match[1])}", name)
    janus.load_state_dict({flip(name): tensor for name, tensor in vqgan.state_dict().items()})
    latents = vqgan.latents(pixels)
    codes = vqgan.codes(latents)
    encoded = (janus.quant_conv(janus.encoder(pixels)) - latents).abs().max().item()
    return encoded, (janus.decode(codes.flatten(1)) - vqgan.decode(codes)).abs().max().item()
