"""Names of what is exported by OpenTelemetry, all of them. The `gen_ai.` ones are those of the semantic conventions for
generative AI, which are in development: they may change with any version of the gateway."""

from __future__ import annotations

SERVICE = "onion-gateway"
SCOPE = "gateway"
SERVICE_NAME, SERVICE_VERSION = "service.name", "service.version"

# -- spans: any -------------------------------------------------------------------------------------------------------
ERROR_TYPE = "error.type"
OTHER_ERROR = "_OTHER"  # an error that has no name of its own
KIND, LEFT = "gateway.kind", "gateway.left"

# -- spans: the request -----------------------------------------------------------------------------------------------
HTTP_METHOD, HTTP_ROUTE, HTTP_STATUS = "http.request.method", "http.route", "http.response.status_code"
TRACE, KEY = "gateway.trace", "gateway.key"
POLICY, ROUTE, PATH = "gateway.policy", "gateway.route", "gateway.path"
MODEL, QUALITY, COST_USD = "gateway.model", "gateway.quality", "gateway.cost_usd"
STREAM, FIRST_CHUNK_S = "gateway.stream", "gateway.first_chunk_s"

# -- spans: a model ---------------------------------------------------------------------------------------------------
OPERATION, PROVIDER = "gen_ai.operation.name", "gen_ai.provider.name"
REQUEST_MODEL, RESPONSE_MODEL = "gen_ai.request.model", "gen_ai.response.model"
REQUEST_STREAM, FINISH_REASONS = "gen_ai.request.stream", "gen_ai.response.finish_reasons"
FIRST_CHUNK = "gen_ai.response.time_to_first_chunk"  # seconds
INPUT_TOKENS, OUTPUT_TOKENS = "gen_ai.usage.input_tokens", "gen_ai.usage.output_tokens"
CACHED_TOKENS = "gen_ai.usage.cache_read.input_tokens"
SERVER_ADDRESS, SERVER_PORT = "server.address", "server.port"
ESTIMATED, ADDRESS, DROPPED = "gateway.tokens_estimated", "gateway.address", "gateway.dropped"
WOKE = "gateway.woke"

# -- spans: a tier ----------------------------------------------------------------------------------------------------
JUDGED = "gateway.judged"
SCORE = "gateway.score."  # and the check's name

# -- metrics ----------------------------------------------------------------------------------------------------------
TOKEN_USAGE = "gen_ai.client.token.usage"
DURATION = "gen_ai.client.operation.duration"
TIME_TO_FIRST_CHUNK = "gen_ai.client.operation.time_to_first_chunk"
TOKEN_TYPE = "gen_ai.token.type"
TOKEN_BUCKETS = (1.0, 4.0, 16.0, 64.0, 256.0, 1024.0, 4096.0, 16384.0, 65536.0, 262144.0, 1048576.0, 4194304.0)
DURATION_BUCKETS_S = (0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92)

# -- values -----------------------------------------------------------------------------------------------------------
CHAT, TEXT_COMPLETION, EMBEDDINGS, RERANK = "chat", "text_completion", "embeddings", "rerank"
OPERATIONS = {
    "/v1/completions": TEXT_COMPLETION,
    "/v1/fim/completions": TEXT_COMPLETION,
    "/api/generate": TEXT_COMPLETION,
    "/v1/embeddings": EMBEDDINGS,
    "/api/embed": EMBEDDINGS,
    "/api/embeddings": EMBEDDINGS,
    "/v1/rerank": RERANK,
}
"""By the path that was asked; all others chat."""
PROVIDERS = {
    "azure": "azure.ai.openai",
    "azure_ai": "azure.ai.inference",
    "bedrock": "aws.bedrock",
    "gemini": "gcp.gemini",
    "mistral": "mistral_ai",
    "moonshot": "moonshot_ai",
    "vertex_ai": "gcp.vertex_ai",
    "watsonx": "ibm.watsonx.ai",
    "xai": "x_ai",
}
"""The conventions' names of providers, where ours or litellm's is another."""
