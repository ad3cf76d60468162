"""Any ViT of timm or transformers behind the interface of ours, for images of any size.

Both libraries import torchvision, which this project does without; they are loaded only where a
backbone names them. A ViT is described by what its library rebuilds it from, so that a trained
network needs neither the network nor the folder that its weights came from.
"""

import inspect
from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from meddino.core.errors import MeddinoError
from meddino.core.files import read_json
from meddino.models import conversion, loading, wrappings
from meddino.models.architectures import library_of
from meddino.models.timm_layouts import to_timm

Description = dict[str, Any]
HEADS = (
    "head.",
    "head_dist.",
    "classifier.",
    "pooler.",
    "cls_classifier.",
    "distillation_",
    "neck.",
)
"""How the tensors begin that a library's checkpoints have beyond the ViT."""
BUFFERS = ("embeddings.position_ids",)
"""Tensors of older checkpoints, CLIP's among them, that hold whole numbers from 0 on."""
NORMS = ("layernorm", "norm", "post_layernorm")
"""What transformers calls a ViT's last norm."""
TOWERS = {"clip": "clip_vision_model", "sam": "sam_vision_model"}
"""Types of models of transformers whose ViT is one of several networks, and the ViT's own type; its
configuration stands under `vision_config`."""
MASKED = ("decoder_", "mask_ratio", "norm_pix_loss")
"""How the options of an MAE begin that are not its encoder's, which is a plain ViT."""
SAM = "samvit_"
"""How timm's names of SAM's image encoders begin."""


class LibraryViT(nn.Module):
    """A library's ViT with `get_intermediate_layers`."""

    def __init__(
        self, model: nn.Module, embed_dim: int, patch_size: int, depth: int, channels: int = 3
    ) -> None:
        """Wrap `model`, of `depth` blocks, whose tokens are `embed_dim` wide.

        Args:
            model: of the library.
            embed_dim: width of its tokens.
            patch_size: side of its patches (px).
            depth: number of its blocks.
            channels: of its input. Images come with three equal ones; a ViT for grey images, such
                as Curia, gets the first.

        Raises:
            ValueError: it takes neither one channel nor three.
        """
        super().__init__()
        if channels not in (1, 3):
            raise ValueError(f"its input has {channels} channels")
        self.model = model
        self.embed_dim, self.patch_size, self.depth = embed_dim, patch_size, depth
        self.channels = channels

    def get_intermediate_layers(
        self, x: Tensor, n: Sequence[int], reshape: bool = True, norm: bool = True
    ) -> tuple[Tensor, ...]:
        """Patch tokens of several blocks, without class and register tokens.

        Args:
            x: images (B, 3, H, W), sides that are multiples of the patch.
            n: blocks, counted from 0.
            reshape: give (B, C, h, w) in place of (B, patches, C).
            norm: apply the ViT's last norm. SAM's has none.
        """
        maps = self._maps(x[:, : self.channels], list(n), norm)
        return tuple(maps if reshape else [m.flatten(2).transpose(1, 2) for m in maps])

    def _maps(self, x: Tensor, blocks: list[int], norm: bool) -> list[Tensor]:
        raise NotImplementedError


class TimmViT(LibraryViT):
    """One of timm."""

    def _maps(self, x: Tensor, blocks: list[int], norm: bool) -> list[Tensor]:
        model: Any = self.model
        maps = model.forward_intermediates(
            x,
            indices=blocks,
            # SAM's neck, which would stand for the norm, makes other channels of the tokens.
            norm=norm and not hasattr(model, "neck"),
            stop_early=True,
            output_fmt="NCHW",
            intermediates_only=True,
        )
        # timm returns each block once, in their order.
        by_block = dict(zip(sorted(set(blocks)), maps, strict=True))
        return [by_block[block] for block in blocks]


class TransformersViT(LibraryViT):
    """One of transformers."""

    def __init__(
        self, model: nn.Module, embed_dim: int, patch_size: int, depth: int, channels: int = 3
    ) -> None:
        """Wrap `model`, and find out whether it must be asked to interpolate its positions."""
        super().__init__(model, embed_dim, patch_size, depth, channels)
        key = "interpolate_pos_encoding"
        self.options = {key: True} if key in inspect.signature(model.forward).parameters else {}

    def _maps(self, x: Tensor, blocks: list[int], norm: bool) -> list[Tensor]:
        tokens = self.tokens(x)[0]
        height, width = (side // self.patch_size for side in x.shape[-2:])
        last = self.last_norm() if norm else nn.Identity()
        patches = [last(tokens[block + 1])[:, -height * width :] for block in blocks]
        return [p.transpose(1, 2).unflatten(2, (height, width)) for p in patches]

    def tokens(self, x: Tensor) -> tuple[Sequence[Tensor], Tensor]:
        """Tokens before the first and after each block, and after the last norm."""
        out = self.model(pixel_values=x, output_hidden_states=True, **self.options)
        return out.hidden_states, out.last_hidden_state

    def last_norm(self) -> nn.Module:
        """The ViT's last norm."""
        norm: nn.Module = next(
            getattr(self.model, key) for key in NORMS if hasattr(self.model, key)
        )
        return norm


class ClipViT(TransformersViT):
    """CLIP's image encoder, whose last norm transformers applies to the class token alone.

    Here it is applied to all tokens, as in timm and OpenCLIP.
    """

    def tokens(self, x: Tensor) -> tuple[Sequence[Tensor], Tensor]:
        """Tokens before the first and after each block, and after the last norm."""
        hidden, last = super().tokens(x)
        return hidden, self.last_norm()(last)


class SamViT(LibraryViT):
    """SAM's image encoder of transformers, without its neck, for images of any size.

    Most blocks attend within windows of 14 x 14 patches, the others to the whole image. The
    position embedding is interpolated as timm does; the relative positions of the latter blocks
    are interpolated by transformers.
    """

    def _maps(self, x: Tensor, blocks: list[int], norm: bool) -> list[Tensor]:
        model: Any = self.model
        tokens = model.patch_embed.projection(x).permute(0, 2, 3, 1)  # (B, h, w, C)
        if model.pos_embed is not None:
            tokens = tokens + self._positions(model.pos_embed, tokens.shape[1:3])
        maps: dict[int, Tensor] = {}
        for number, layer in enumerate(model.layers[: max(blocks) + 1]):
            tokens = layer(tokens)
            maps[number] = tokens.permute(0, 3, 1, 2)  # (B, C, h, w)
        return [maps[block] for block in blocks]

    @staticmethod
    def _positions(table: Tensor, shape: Sequence[int]) -> Tensor:
        """The position embedding (1, H, W, C) at another number of patches, (1, h, w, C)."""
        if table.shape[1:3] == tuple(shape):
            return table
        channels_first = table.permute(0, 3, 1, 2)
        resized = F.interpolate(channels_first, tuple(shape), mode="bicubic", antialias=True)
        return resized.permute(0, 2, 3, 1)


def describe(backbone: str, config: Mapping[str, Any] | None = None) -> Description:
    """What a library rebuilds a ViT from, in types that JSON holds.

    Args:
        backbone: `timm:NAME` or `transformers:NAME`; the latter may be a folder.
        config: the `config.json` beside its weights; without it transformers looks the name up,
            on Hugging Face if need be.

    Raises:
        MeddinoError: the library knows no such name, or cannot be loaded.
    """
    library, name = library_of(backbone) or ("", backbone)
    described = {"timm": _describe_timm, "transformers": _describe_transformers}[library]
    return {"backbone": backbone, **described(name, config)}


def _describe_timm(name: str, config: Mapping[str, Any] | None) -> Description:
    timm = _imported("timm")
    if not timm.is_model(name):
        close = ", ".join(timm.list_models(f"*{name.partition('.')[0]}*")[:3]) or "timm.list_models"
        raise MeddinoError(f"timm:{name}: timm {timm.__version__} has no such model; see {close}")
    recorded = config or {}
    same = recorded.get("architecture", "").partition(".")[0] == name.partition(".")[0]
    arguments = recorded.get("model_args") or {} if same else {}
    dropped = ("num_classes", "drop_path_rate", "global_pool", "dynamic_img_size")
    return {"model_args": {k: v for k, v in arguments.items() if k not in dropped}}


def _describe_transformers(name: str, config: Mapping[str, Any] | None) -> Description:
    transformers = _imported("transformers")
    if config is None:
        try:
            config = transformers.AutoConfig.from_pretrained(name).to_dict()
        # The client's errors, and those of a malformed file, are of many kinds.
        except Exception as error:
            raise MeddinoError(
                f"transformers:{name}: no config.json can be had ({_first_line(error)}); give a"
                " folder that save_pretrained wrote, or weights with a config.json beside them"
            ) from error
    unused = ("id2label", "label2id", "transformers_version", "torch_dtype", "dtype")
    return {"config": {k: v for k, v in _of_vit(config).items() if k not in unused}}


def _of_vit(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """The configuration of the ViT alone, where it is a part of a model."""
    kind = config.get("model_type")
    if kind in TOWERS:
        # SAM's published file leaves the type of its parts empty.
        return {**config.get("vision_config", {}), "model_type": TOWERS[kind]}
    if kind == "vit_mae":
        kept = {k: v for k, v in config.items() if not k.startswith(MASKED)}
        return {**kept, "model_type": "vit"}
    return config


def build(description: Description, drop_path: float = 0.0) -> LibraryViT:
    """Build a ViT with random weights.

    Args:
        description: from `describe`.
        drop_path: share of images that skip a residual branch in training; the library spreads it
            over depth in its own way.

    Raises:
        MeddinoError: the library cannot build it, or it is no plain ViT for images of any size.
    """
    backbone = description["backbone"]
    library, name = library_of(backbone) or ("", backbone)
    builder = {"timm": _build_timm, "transformers": _build_transformers}[library]
    try:
        vit = builder(name, description, drop_path)
        _check(vit)
    except MeddinoError:
        raise
    # What else than a plain ViT a name stands for shows in errors of every kind.
    except Exception as error:
        raise _unfit(backbone, error) from error
    return vit


def _build_timm(name: str, description: Description, drop_path: float) -> LibraryViT:
    timm = _imported("timm")
    arguments = description["model_args"]
    if not name.startswith(SAM):  # which takes any size without being asked
        arguments = {**arguments, "dynamic_img_size": True}
    model = timm.create_model(
        name, pretrained=False, num_classes=0, drop_path_rate=drop_path, **arguments
    )
    if name.startswith(SAM):
        model.neck = nn.Identity()
    levels = {(level["reduction"], level["num_chs"]) for level in model.feature_info}
    if len(levels) != 1:
        raise ValueError(f"its blocks give maps of {len(levels)} sizes")
    ((patch, width),) = levels
    return TimmViT(model, width, patch, len(model.feature_info), arguments.get("in_chans", 3))


def _build_transformers(name: str, description: Description, drop_path: float) -> LibraryViT:
    transformers = _imported("transformers")
    config = transformers.AutoConfig.for_model(**description["config"])
    if drop_path > 0 and not hasattr(config, "drop_path_rate"):
        raise ValueError("it has no drop path: set drop_path of the method to 0")
    if hasattr(config, "drop_path_rate"):
        config.drop_path_rate = drop_path
    model = transformers.AutoModel.from_config(config, dtype=torch.float32)
    if getattr(model, "pooler", None) is not None:
        model.pooler = None
    if config.model_type == TOWERS["sam"]:
        model = model.vision_encoder
        model.neck = None
    kinds: dict[str, type[LibraryViT]] = {TOWERS["clip"]: ClipViT, TOWERS["sam"]: SamViT}
    return kinds.get(config.model_type, TransformersViT)(
        model,
        config.hidden_size,
        config.patch_size,
        config.num_hidden_layers,
        getattr(config, "num_channels", 3),
    )


@torch.no_grad()
def _check(vit: LibraryViT) -> None:
    """Try it on a small image that is not square: each library has models that are not plain."""
    training = vit.training
    x = torch.zeros(1, 3, 2 * vit.patch_size, 3 * vit.patch_size)
    feature = vit.eval().get_intermediate_layers(x, [vit.depth - 1])[0]
    if feature.shape != (1, vit.embed_dim, 2, 3):
        raise ValueError(f"its features are of shape {tuple(feature.shape)}")
    if isinstance(vit, TransformersViT):
        tokens, normed = vit.tokens(x[:, : vit.channels])
        if not torch.allclose(vit.last_norm()(tokens[-1]), normed, atol=1e-4):
            raise ValueError("its last norm is not where that of a plain ViT is")
    vit.train(training)


def read_checkpoint(backbone: str, path: Path) -> tuple[Description, dict[str, Tensor]]:
    """Read a checkpoint of a library.

    Args:
        backbone: `timm:NAME` or `transformers:NAME`.
        path: its file (safetensors, or what `torch.load` reads safely) or folder; a `config.json`
            there goes before what the name stands for.

    Returns:
        What rebuilds the ViT, and its tensors in fp32 under the library's names, without heads.

    Raises:
        MeddinoError: it cannot be read, or does not fit the ViT.
    """
    file = loading.file_of(path)
    beside = file.with_name("config.json")
    content = loading.read(file)
    try:
        tensors = wrappings.tensors(content)
    except MeddinoError as error:
        raise MeddinoError(f"{file}: {error}") from error
    config = (
        read_json(beside)
        if file.name.removesuffix(wrappings.INDEX) in conversion.FILES and beside.exists()
        else None
    )
    description = describe(backbone, config)
    vit = build(description)
    tensors = {k: v.float() for k, v in tensors.items() if k not in BUFFERS}
    if not isinstance(vit, TimmViT):
        tensors = _renamed(vit.model, tensors, str(file))
    else:
        tensors = to_timm(tensors)
    tensors = {k: v for k, v in tensors.items() if not k.startswith(HEADS)}
    loading.load_strictly(vit.model, tensors, str(file))
    return description, tensors


def _renamed(model: Any, tensors: dict[str, Tensor], source: str) -> dict[str, Tensor]:
    """Give tensors the names that this release of transformers has in memory, by its own loader."""
    try:
        loaded, info = type(model).from_pretrained(
            None, config=model.config, state_dict=tensors, output_loading_info=True
        )
    except Exception as error:
        raise MeddinoError(f"{source} does not load: {_first_line(error)}") from error
    missing = {key for key in info["missing_keys"] if not key.startswith(HEADS)}
    unknown = {key: tensors[key] for key in info["unexpected_keys"] if key in tensors}
    state = {k: v for k, v in loaded.state_dict().items() if k not in missing}
    return {**state, **unknown}


def _imported(name: str) -> Any:
    try:
        return import_module(name)
    except ImportError as error:
        raise MeddinoError(
            f"{name} is not installed ({error}); run `pip install {name}`"
        ) from error
    # That torchvision does not fit torch shows in errors of other kinds.
    except Exception as error:
        raise _unfit(name, error) from error


def _unfit(what: str, error: Exception) -> MeddinoError:
    """Why a library cannot be loaded, or cannot build a backbone."""
    causes: list[BaseException] = [error]
    while cause := causes[-1].__cause__ or causes[-1].__context__:
        causes.append(cause)
    reason = f"{type(error).__name__}: {_first_line(error)}"
    if torchvision := [cause for cause in causes if "torchvision" in str(cause)]:
        return MeddinoError(
            f"{what} cannot be loaded ({_first_line(torchvision[-1])}): its library imports"
            " torchvision, which is made for one release of torch, and here not for"
            f" {torch.__version__}. Install the torchvision that belongs to your torch, from where"
            " torch came; or use a backbone of meddino"
        )
    return MeddinoError(
        f"{what} cannot serve as a backbone ({reason}); choose a plain ViT, of one size of patches,"
        " for images of any size"
    )


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or ["no message"])[0]
