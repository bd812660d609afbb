"""Compile a PyTorch module for this machine and run it: pip install "pocketformer[torch]"."""

import torch

import pocketformer as pf


class Block(torch.nn.Module):
    """A layer of a Transformer and a classifier of what it makes of the first token."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.TransformerEncoderLayer(64, 4, 256, batch_first=True)
        self.head = torch.nn.Linear(64, 3)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        return self.head(self.layer(tokens)[:, 0])


module, tokens = Block(), torch.randn(1, 10, 64)
bundle = pf.compile(module, example_inputs=tokens, dims={"tokens.1": "1..128"})
session = pf.Session(bundle)
for length in (10, 77):
    tokens = torch.randn(1, length, 64)
    output = session.run(tokens=tokens)["output"]
    with torch.no_grad():
        print(length, "tokens: off by", abs(output - module.eval()(tokens).numpy()).max())
