"""What transformers' released processors and models make of conversations with videos, in a process of its own.

python released_videos.py TORCHVISION CHECKPOINT PROCESSOR CHATS SAMPLING OUT

transformers' video processors need torchvision. Where only its build for CUDA is to be had, it stops at operators that are
missing without CUDA: they are declared here, and nothing calls them. Videos are decoded by PyAV, as transformers does it.
"""

from __future__ import annotations

import json
import sys
from typing import Any

import torch

OPERATORS = "nms qnms roi_align roi_pool ps_roi_align ps_roi_pool deform_conv2d qroi_align"
BACKWARD = "_roi_align_backward _roi_pool_backward _ps_roi_align_backward _ps_roi_pool_backward _deform_conv2d_backward"
GRIDS = ("image_grid_thw", "video_grid_thw", "second_per_grid_ts")


def main(torchvision: str, checkpoint: str, processor_name: str, chats: str, sampling: str, out: str) -> None:
    sys.path.insert(0, torchvision)
    library = torch.library.Library("torchvision", "DEF")
    for name in f"{OPERATORS} {BACKWARD}".split():
        library.define(f"{name}(Tensor a) -> Tensor")
    import transformers
    from safetensors.torch import save_file
    from transformers import AutoImageProcessor, AutoModelForImageTextToText, AutoTokenizer

    processor = getattr(transformers, processor_name).from_pretrained(checkpoint)
    processor.image_processor = AutoImageProcessor.from_pretrained(checkpoint, backend="pil")
    processor.chat_template = AutoTokenizer.from_pretrained(checkpoint).chat_template
    model: Any = AutoModelForImageTextToText.from_pretrained(checkpoint).eval()
    found: dict[str, torch.Tensor] = {}
    for number, chat in enumerate(json.loads(chats)):
        made = _made(processor, model, chat, json.loads(sampling))
        found |= {f"{number}.{name}": torch.as_tensor(value).contiguous() for name, value in made.items()}
    save_file(found, out)


def _made(processor: Any, model: Any, chat: list[dict[str, Any]], sampling: dict[str, Any]) -> dict[str, Any]:
    from transformers.image_utils import load_image
    from transformers.video_utils import read_video_pyav

    parts = [part for message in chat if isinstance(message["content"], list) for part in message["content"]]
    films = []
    for part in parts:
        if part["type"] == "video":
            frames, metadata = read_video_pyav(part["video"], lambda metadata: range(metadata.total_num_frames))
            metadata.frames_indices = None
            films.append((frames, metadata))
    inputs = processor(
        text=[processor.apply_chat_template(chat, tokenize=False)],
        images=[load_image(part["image"]) for part in parts if part["type"] == "image"] or None,
        videos=[frames for frames, _ in films] or None,
        video_metadata=[metadata for _, metadata in films] or None,
        do_sample_frames=True,
        return_tensors="pt",
        **sampling,
    )
    inputs.pop("video_metadata", None)
    made = dict(inputs)
    if hasattr(model.model, "get_rope_index"):
        grids = {name: inputs[name] for name in GRIDS if name in inputs}
        positions, _ = model.model.get_rope_index(inputs["input_ids"], inputs["mm_token_type_ids"], **grids)
        made["positions"] = positions[:, 0]
    with torch.no_grad():
        logps = model(**inputs).logits.double().log_softmax(-1)[0, :-1]
    made["logps"] = logps.gather(1, inputs["input_ids"][0, 1:, None])[:, 0]
    return made


if __name__ == "__main__":
    main(*sys.argv[1:])
