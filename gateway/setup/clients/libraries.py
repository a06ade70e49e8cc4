"""Libraries and tools that are told in code or in a file: LangChain, LlamaIndex, the Vercel AI SDK, llm."""

from __future__ import annotations

from gateway.setup.clients import KEY_VARIABLE, PROMPT, Server, Snippet
from gateway.setup.clients.settings import Settings


def _python_key(server: Server) -> str:
    return f'os.environ["{KEY_VARIABLE}"]' if server.wants_key else '"unused"'


def _imports(server: Server) -> str:
    return "import os\n\n" if server.wants_key else ""


def _langchain(server: Server) -> list[Snippet]:
    key = _python_key(server)
    text = f"""{_imports(server)}from langchain_openai import ChatOpenAI, OpenAIEmbeddings

chat = ChatOpenAI(model="{server.model}", base_url="{server.base_url}", api_key={key})
embeddings = OpenAIEmbeddings(model="auto", base_url="{server.base_url}", api_key={key})
print(chat.invoke("{PROMPT}").content)
"""
    return [Snippet("Python, with pip install langchain-openai", text)]


def _llama_index(server: Server) -> list[Snippet]:
    text = f"""{_imports(server)}from llama_index.llms.openai_like import OpenAILike

llm = OpenAILike(
    model="{server.model}",
    api_base="{server.base_url}",
    api_key={_python_key(server)},
    is_chat_model=True,
    is_function_calling_model=True,
    context_window=8192,
)
print(llm.complete("{PROMPT}"))
"""
    return [Snippet("Python, with pip install llama-index-llms-openai-like", text)]


def _ai_sdk(server: Server) -> list[Snippet]:
    key = f"  apiKey: process.env.{KEY_VARIABLE},\n" if server.wants_key else ""
    text = f"""import {{ createOpenAICompatible }} from "@ai-sdk/openai-compatible";
import {{ generateText }} from "ai";

const onion = createOpenAICompatible({{
  name: "onion",
  baseURL: "{server.base_url}",
{key}}});
const {{ text }} = await generateText({{ model: onion("{server.model}"), prompt: "{PROMPT}" }});
console.log(text);
"""
    return [Snippet("JavaScript, with npm install ai @ai-sdk/openai-compatible", text)]


def _llm(server: Server) -> list[Snippet]:
    """Source: llm's documentation of OpenAI-compatible models."""
    key = "  api_key_name: onion\n" if server.wants_key else ""
    text = (
        f"- model_id: onion\n  model_name: {server.model}\n  api_base: {server.base_url}\n{key}"
        "  supports_tools: true\n  supports_schema: true\n"
    )
    shell = f"llm keys set onion --value {server.shell_key}\n" if server.wants_key else ""
    return [
        Snippet("extra-openai-models.yaml, in the folder that `dirname $(llm logs path)` names", text),
        Snippet("shell", f"{shell}llm -m onion '{PROMPT}'\n"),
    ]


LIBRARIES = (
    Settings("langchain", ("chat with tools", "chat stream", "embeddings"), _langchain),
    Settings("llama-index", ("chat", "chat stream", "chat with tools"), _llama_index),
    Settings("ai-sdk", ("chat stream", "chat with tools"), _ai_sdk),
    Settings("llm", ("chat stream", "chat"), _llm),
)
