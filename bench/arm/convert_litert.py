"""Runs with LiteRT's converter on the path: a Hugging Face encoder -> a .tflite file.

    python convert_litert.py FOLDER OUTPUT.tflite BATCH SEQ
"""

from __future__ import annotations

import sys

import litert_torch  # type: ignore[import-not-found]
import torch
from transformers import AutoModel

from bench.baselines.onnxruntime import INPUTS, LastHiddenState


def main() -> None:
    folder, output, batch, seq = sys.argv[1:]
    encoder = AutoModel.from_pretrained(folder, attn_implementation="sdpa").eval()
    example = tuple(torch.ones(int(batch), int(seq), dtype=torch.long) for _ in INPUTS)
    litert_torch.convert(LastHiddenState(encoder).eval(), example).export(output)


if __name__ == "__main__":
    main()
