"""openai-node: the package `openai` as Node finds it from the working directory."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from gateway.setup.clients import KEY_VARIABLE, PROMPT, SDK_SURFACES, Server, Snippet, Trial, recorded
from gateway.setup.clients.program import GRACE_S, run, trials_of

SCRIPT = """
import OpenAI from 'openai';
const [url, model, timeoutS, prompt] = process.argv.slice(1);
const client = new OpenAI({
  baseURL: url, apiKey: process.env.GATEWAY_KEY, maxRetries: 0, timeout: Number(timeoutS) * 1000
});
const messages = [{ role: 'user', content: prompt }];
for (const stream of [false, true]) {
  const report = { stream };
  const started = performance.now(), since = () => (performance.now() - started) / 1000;
  try {
    const { data, response } = await client.chat.completions.create({ model, messages, stream }).withResponse();
    report.model = response.headers.get('x-gateway-model');
    report.path = response.headers.get('x-gateway-path');
    report.text = stream ? '' : data.choices[0].message.content ?? '';
    if (stream) for await (const chunk of data) {
      report.text += chunk.choices[0]?.delta?.content ?? '';
      if (report.text && report.first_s === undefined) report.first_s = since();
    }
    report.whole_s = since();
  } catch (error) {
    const late = error instanceof OpenAI.APIConnectionTimeoutError;
    report.error = { message: late ? `no answer within ${timeoutS} s` : error.error?.message ?? String(error.message),
      status: error.status, code: late ? 'timeout' : error.code };
  }
  console.log(JSON.stringify(report));
}
"""
FIND = "const { VERSION } = await import('openai/version'); await import('openai'); console.log(VERSION);"
RECORDED = {
    "user-agent": "OpenAI/JS 6.49.0",
    "accept": "application/json",
    "x-stainless-lang": "js",
    "x-stainless-package-version": "6.49.0",
    "x-stainless-runtime": "node",
    "x-stainless-retry-count": "0",
    "accept-language": "*",
    "sec-fetch-mode": "cors",
}
CODE = """\
import OpenAI from "openai";

const client = new OpenAI({{ baseURL: "{url}", apiKey: {key} }});
const stream = await client.chat.completions.create({{
  model: "{model}",
  messages: [{{ role: "user", content: "{prompt}" }}],
  stream: true,
}});
for await (const chunk of stream) process.stdout.write(chunk.choices[0]?.delta?.content ?? "");
"""


@dataclass(frozen=True)
class OpenAINode:
    """`folder`: where the package is looked for; None for the working directory."""

    name: ClassVar[str] = "openai-node"
    surfaces: ClassVar[tuple[str, ...]] = SDK_SURFACES
    folder: Path | None = None

    def paste(self, server: Server) -> list[Snippet]:
        key = f"process.env.{KEY_VARIABLE}" if server.wants_key else '"unused"'
        return [
            Snippet(
                "shell: programs that call new OpenAI() without arguments then need no change but the model",
                f"export OPENAI_BASE_URL={server.base_url}\nexport OPENAI_API_KEY={server.shell_key}\n",
            ),
            Snippet(
                "JavaScript (a .mjs file), or in the code",
                CODE.format(url=server.base_url, key=key, model=server.model, prompt=PROMPT),
            ),
        ]

    async def trials(self, server: Server) -> list[Trial]:
        node = shutil.which("node")
        version = await self._version(node) if node else None
        if node is None or version is None:
            lacks = "Node finds no package openai here: npm install openai" if node else "there is no node on PATH"
            by = f"the request of openai-node 6.49 ({lacks})"
            return await recorded.trials(server, by, RECORDED, {"messages": [{"role": "user", "content": PROMPT}]})
        argv = [node, "--input-type=module", "--eval", SCRIPT, "--"]
        argv += [server.base_url, server.model, f"{server.timeout_s:g}", PROMPT]
        environ = {KEY_VARIABLE: server.sent_key}
        ran = await run(argv, 2 * server.timeout_s + GRACE_S, environ=environ, folder=self.folder)
        return trials_of(ran, f"openai {version} on Node", server)

    async def _version(self, node: str) -> str | None:
        ran = await run([node, "--input-type=module", "--eval", FIND], GRACE_S, folder=self.folder)
        return ran.output.strip() or None if ran.status == 0 else None
