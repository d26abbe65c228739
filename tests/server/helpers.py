"""What the server's tests share: a small random SAE, and calls that must succeed or fail."""

from pathlib import Path
from typing import Any

from mcp import Client

from saescope_mcp.app import ALL_TOOLS, build_server
from saescope_mcp.state import AppState

HOOK = "blocks.2.hook_resid_post"
PROMPT = "The old man went to the sea"


def save_random_sae(folder: Path, *, hook_name: str = HOOK, d_in: int = 128, seed: int = 0) -> Path:
    """A TopK SAE with random directions, in SAELens's format."""
    import torch

    from saescope.saes import SAEMetadata, TopKConfig, TopKSAE

    rng = torch.Generator().manual_seed(seed)
    W_dec = torch.nn.functional.normalize(torch.randn(256, d_in, generator=rng), dim=-1)
    tensors = {
        "W_enc": W_dec.T.contiguous(),
        "W_dec": W_dec,
        "b_enc": torch.zeros(256),
        "b_dec": torch.zeros(d_in),
    }
    metadata = SAEMetadata(hook_name=hook_name, prepend_bos=False)
    return TopKSAE(TopKConfig(d_in=d_in, d_sae=256, k=8, metadata=metadata), tensors).save(folder)


async def call(state: AppState, tool: str, **arguments: Any) -> dict[str, Any]:
    """The document of a call that must succeed."""
    outcome = await next(each for each in ALL_TOOLS if each.name == tool).call(state, arguments)
    assert not outcome.is_error, outcome.text
    return outcome.document


async def refuse(state: AppState, tool: str, **arguments: Any) -> dict[str, Any]:
    """The error of a call that must fail."""
    async with Client(build_server(state=state)) as client:
        result = await client.call_tool(tool, arguments)
    assert result.is_error and result.structured_content is not None
    assert result.content[0].type == "text" and result.content[0].text.startswith(
        f"{result.structured_content['code']}: "
    )
    return result.structured_content


async def empties(client: Client) -> dict[str, dict[str, Any]]:
    """What a client takes the fields for that a tool's concise reply is sent without."""
    await client.list_tools()  # a client that knows the schemas checks every result
    lists = {"warnings": [], "next": [], "truncated": False}
    return {tool.name: dict.fromkeys(tool.reply.model_fields) | lists for tool in ALL_TOOLS}


def save_random_clt(folder: Path) -> Path:
    """A cross-layer transcoder for the tiny model, written as circuit-tracer writes it."""
    import torch
    from safetensors.torch import save_file

    rng = torch.Generator().manual_seed(0)
    folder.mkdir()
    (folder / "config.yaml").write_text(
        "model_name: test/glass\nmodel_kind: cross_layer_transcoder\nactivation: relu\n"
        "feature_input_hook: hook_resid_mid\nfeature_output_hook: hook_mlp_out\n"
    )
    for i in range(4):
        encoder = {
            f"W_enc_{i}": torch.randn(64, 128, generator=rng) / 9,
            f"b_enc_{i}": torch.zeros(64),
            f"b_dec_{i}": torch.zeros(128),
        }
        save_file(encoder, folder / f"W_enc_{i}.safetensors")
        decoders = torch.randn(64, 4 - i, 128, generator=rng) / 99
        save_file({f"W_dec_{i}": decoders}, folder / f"W_dec_{i}.safetensors")
    return folder
