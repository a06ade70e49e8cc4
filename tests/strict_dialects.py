"""The same as `strict_upstreams`, for Anthropic's Messages API and OpenAI's Responses API."""

from __future__ import annotations

import re

import orjson

from tests.strict_upstreams import Json, Refused, Strict, Turn, demand


class Claude(Strict):
    path = "/v1/messages"

    def check(self, body: Json) -> None:
        turns = body["messages"]
        demand(turns and turns[0]["role"] == "user", "messages: first message must use the user role")
        due: list[str] = []
        seen: set[str] = set()
        for i, turn in enumerate(turns):
            demand(turn["role"] in ("user", "assistant"), f"messages.{i}.role {turn['role']}")
            blocks = turn["content"]
            blocks = [{"type": "text", "text": blocks}] if isinstance(blocks, str) else blocks
            demand(blocks, f"messages.{i}.content must not be empty")
            results = [block["tool_use_id"] for block in blocks if block["type"] == "tool_result"]
            first = [block["tool_use_id"] for block in blocks[: len(results)] if block["type"] == "tool_result"]
            demand(set(due) <= set(first), f"messages.{i}: tool_use without tool_result: {due}, {results}")
            demand(len(set(results)) == len(results), f"messages.{i}: several results for one id")
            demand(set(results) <= set(due), f"messages.{i}: unexpected tool_use_id in tool_result: {results}")
            due = []
            for block in blocks:
                self._check_block(block, turn["role"], i)
                if block["type"] == "tool_use":
                    demand(block["id"] not in seen, f"messages.{i}: tool_use ids must be unique: {block['id']}")
                    seen.add(block["id"])
                    due.append(block["id"])
        demand(not due, "messages: the last tool_use has no tool_result")
        demand(not seen or body.get("tools"), "requests with tool_use blocks must define tools")
        if (body.get("thinking") or {}).get("type") == "enabled":
            self._check_loop(turns)

    def _check_block(self, block: Json, role: str, i: int) -> None:
        kind = block["type"]
        if kind == "text":
            demand(block["text"].strip(), f"messages.{i}: text content blocks must be non-empty")
        elif kind == "thinking":
            self.recognise(block["signature"], f"messages.{i}")
        elif kind in ("tool_use", "tool_result"):
            id = block["id" if kind == "tool_use" else "tool_use_id"]
            demand(re.fullmatch(r"[a-zA-Z0-9_-]{1,64}", id), f"messages.{i}: id should match pattern: {id!r}")
        else:
            raise Refused(f"messages.{i}: block {kind}")
        demand((kind in ("thinking", "tool_use")) <= (role == "assistant"), f"messages.{i}: {kind} by {role}")

    def _check_loop(self, turns: list[Json]) -> None:
        if turns[-1]["role"] == "assistant":
            demand(turns[-1]["content"][0]["type"] == "thinking", "a final assistant message must start with thinking")
        for turn in reversed(turns):
            blocks = turn["content"] if isinstance(turn["content"], list) else []
            if turn["role"] == "assistant" and any(block["type"] == "tool_use" for block in blocks):
                demand(blocks[0]["type"] == "thinking", "expected `thinking`, but found `tool_use`")
            elif turn["role"] == "user" and not any(block["type"] == "tool_result" for block in blocks):
                return

    def whole(self, turn: Turn, body: Json) -> Json:
        content: list[Json] = []
        if (body.get("thinking") or {}).get("type") in ("enabled", "adaptive"):
            content.append({"type": "thinking", "thinking": turn.thinking, "signature": self.sign()})
        if turn.text:
            content.append({"type": "text", "text": turn.text})
        for name, arguments in turn.calls:
            content.append({"type": "tool_use", "id": f"toolu_{self.letters(24)}", "name": name, "input": arguments})
        return {
            "id": "msg_1",
            "type": "message",
            "role": "assistant",
            "model": "claude",
            "content": content,
            "stop_reason": "tool_use" if turn.calls else "end_turn",
            "stop_sequence": None,
            "usage": {"input_tokens": 9, "output_tokens": 5},
        }

    def events(self, whole: Json) -> list[Json]:
        events: list[Json] = [{"type": "message_start", "message": {**whole, "content": [], "stop_reason": None}}]
        for index, block in enumerate(whole["content"]):
            start, deltas = self._pieces(block)
            events.append({"type": "content_block_start", "index": index, "content_block": start})
            events += ({"type": "content_block_delta", "index": index, "delta": delta} for delta in deltas)
            events.append({"type": "content_block_stop", "index": index})
        last = {"stop_reason": whole["stop_reason"], "stop_sequence": None}
        return [
            *events,
            {"type": "message_delta", "delta": last, "usage": {"output_tokens": 5}},
            {"type": "message_stop"},
        ]

    def _pieces(self, block: Json) -> tuple[Json, list[Json]]:
        if block["type"] == "text":
            return {"type": "text", "text": ""}, [{"type": "text_delta", "text": block["text"]}]
        if block["type"] == "thinking":
            thought = {"type": "thinking_delta", "thinking": block["thinking"]}
            signed = {"type": "signature_delta", "signature": block["signature"]}
            return {"type": "thinking", "thinking": "", "signature": ""}, [thought, signed]
        written = {"type": "input_json_delta", "partial_json": orjson.dumps(block["input"]).decode()}
        return {**block, "input": {}}, [written]


class Responses(Strict):
    path = "/v1/responses"

    def check(self, body: Json) -> None:
        called: set[str] = set()
        answered: set[str] = set()
        for i, item in enumerate(body["input"]):
            kind = item.get("type", "message")
            if kind == "reasoning":
                self.recognise(item.get("encrypted_content"), f"input[{i}]")
            elif kind == "function_call":
                demand(0 < len(item["call_id"]) <= 64, f"input[{i}].call_id: string too long")
                called.add(item["call_id"])
            elif kind == "function_call_output":
                demand(item["call_id"] in called, f"no tool call found for output {item['call_id']}")
                answered.add(item["call_id"])
            else:
                demand(kind == "message" and item["content"], f"input[{i}] {kind}")
        demand(called <= answered, f"no tool output found for {called - answered}")

    def whole(self, turn: Turn, body: Json) -> Json:
        summary = [{"type": "summary_text", "text": turn.thinking}]
        sealed = {"id": f"rs_{self.letters(8)}", "type": "reasoning", "summary": summary}
        output: list[Json] = [{**sealed, "encrypted_content": self.sign()}]
        if turn.text:
            part = {"type": "output_text", "text": turn.text, "annotations": [], "logprobs": []}
            output.append(
                {"id": "msg_1", "type": "message", "role": "assistant", "status": "completed", "content": [part]}
            )
        for i, (name, arguments) in enumerate(turn.calls):
            call = {
                "id": f"fc_{i}",
                "type": "function_call",
                "status": "completed",
                "call_id": f"call_{self.letters(24)}",
            }
            output.append({**call, "name": name, "arguments": orjson.dumps(arguments).decode()})
        usage = {"input_tokens": 9, "output_tokens": 5, "total_tokens": 14}
        return {
            "id": "resp_1",
            "object": "response",
            "created_at": 1,
            "status": "completed",
            "error": None,
            "incomplete_details": None,
            "model": "up",
            "output": output,
            "usage": usage,
        }

    def events(self, whole: Json) -> list[Json]:
        events: list[Json] = [{"type": "response.created", "response": {**whole, "output": []}}]
        for place, item in enumerate(whole["output"]):
            where = {"output_index": place, "item_id": item["id"]}
            empty = {**item, **{name: value for name, value in (("content", []), ("arguments", "")) if name in item}}
            events.append({"type": "response.output_item.added", "output_index": place, "item": empty})
            if item["type"] == "message":
                text = item["content"][0]["text"]
                events.append({"type": "response.output_text.delta", **where, "content_index": 0, "delta": text})
            elif item["type"] == "function_call":
                written = {"type": "response.function_call_arguments.delta", **where, "delta": item["arguments"]}
                events.append(written)
            events.append({"type": "response.output_item.done", "output_index": place, "item": item})
        return [*events, {"type": "response.completed", "response": whole}]
