"""How a person sees the result of each tool: what one wants first, not every field."""

from collections.abc import Callable, Mapping
from typing import Any

from rich.console import Console

from saescope_mcp.cli.renderers import (
    explaining,
    judging,
    knowing,
    loading,
    reading,
    record,
    steering,
)
from saescope_mcp.cli.renderers import training as trained

Renderer = Callable[[Mapping[str, Any], Console], None]

RENDERERS: Mapping[str, Renderer] = {
    "find_saes": loading.find_saes,
    "load_sae": loading.load_sae,
    "unload": loading.unload,
    "server_status": loading.server_status,
    "encode_text": reading.encode_text,
    "top_features": reading.top_features,
    "attribute_logit": explaining.attribute_logit,
    "trace_circuit": explaining.trace_circuit,
    "compare_prompts": explaining.compare_prompts,
    "intervene": explaining.intervene,
    "steer_generate": steering.steer_generate,
    "steer_search": steering.steer_search,
    "index_features": knowing.index_features,
    "describe_feature": knowing.describe_feature,
    "find_features": knowing.find_features,
    "quiz_feature": knowing.quiz_feature,
    "label_feature": knowing.label_feature,
    "train_sae": trained.train_sae,
    "job_status": trained.job_status,
    "cancel_job": trained.cancel_job,
    "evaluate_sae": judging.evaluate_sae,
    "publish_sae": judging.publish_sae,
    "results": record.results,
    "claim": record.claim,
    "export_report": record.report,
}
