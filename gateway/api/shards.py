"""`/v1/shards`: shards written, read, tested and approved, documents and memories among them. Callers reach what is
their own key's, and what is for everybody."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import replace
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from fastapi.responses import JSONResponse

from gateway.api.body import read_body
from gateway.api.entrance import key_of
from gateway.api.openai import parse_json
from gateway.api.shard_feed import MAX_REVISION
from gateway.chat import ChatRequest, Json
from gateway.errors import Forbidden, InvalidRequest, NotFound, Overloaded
from gateway.live import Live
from gateway.responders.remembers import writer_of
from gateway.runtime import Runtime
from gateway.shards import OPERATOR, Kind, Scope, Shard, State, Trust, audiences_for
from gateway.shards.bookcase import Opened
from gateway.shards.orders import Reader, Subject, Wanted
from gateway.shards.outside import KEYS, read_shard, shown
from gateway.shards.reading.documents import Document, Markup
from gateway.shards.reading.ingest import ingest, like_of, screen
from gateway.shards.rendering import Size
from gateway.shards.reviewing import approve, take_back
from gateway.shards.store import Where
from gateway.store.answers import purge_answers
from gateway.trace import new_id

WRITES_A_MINUTE, WRITES_A_DAY = 120, 5000  # of one key; the operator has no limit
MOST_LISTED = 1000
MAX_DOCUMENT = 4 * 2**20  # characters
VERDICTS = {"approve": None, "reject": "rejected", "retire": "retired by hand"}


class Caller:
    """Whose shards a request may read and write."""

    def __init__(self, request: Request) -> None:
        key = key_of(request.scope["gateway"])
        self.key = key.name if key is not None else None
        self.tenant = key.tenant if key is not None else OPERATOR
        self.is_operator = key is None or key.is_admin

    def audiences(self, user: str | None = None) -> tuple[str, ...]:
        return audiences_for(self.tenant, user)

    def trust(self, scope: Scope) -> Trust:
        if scope is Scope.USER:
            return Trust.USER
        return Trust.OPERATOR if self.is_operator else Trust.TESTED

    def may_write(self, shard: Shard) -> None:
        """Raises: Forbidden."""
        if not self.is_operator and (shard.tenant != self.tenant or shard.scope is Scope.GLOBAL):
            raise Forbidden("shards for everybody are the operator's: write it for your own key, with scope 'tenant'")


def shards(live: Live, runtime: Runtime) -> APIRouter:
    router = APIRouter(prefix="/v1/shards")

    def opened() -> Opened:
        found = runtime.bookcase.opened
        if found is None:
            raise NotFound("this server keeps no shards")
        return found

    async def body_of(request: Request) -> Json:
        return parse_json(await read_body(request.scope, request.receive, live.body_limit_bytes))

    async def own(request: Request, id: str, user: str | None = None) -> Shard:
        caller = Caller(request)
        shard = await opened().store.get(id)
        is_visible = shard is not None and (shard.audience in caller.audiences(user or shard.user))
        if shard is None or not is_visible:
            raise NotFound(f"there is no shard '{id[:64]}'")
        return shard

    async def told(shard: Shard) -> Json:
        return shown(shard, await opened().store.standings([shard.id]))

    @router.get("")
    async def listed(
        request: Request,
        kind: Kind | None = None,
        state: State | None = None,
        source: str | None = None,
        lot: str | None = None,
        user: str | None = None,
        after: Annotated[int, Query(ge=0, le=MAX_REVISION)] = 0,
        limit: Annotated[int, Query(ge=1, le=MOST_LISTED)] = 100,
    ) -> JSONResponse:
        """In the order of their last change; `next` goes on. A user's own are listed with `user`."""
        audiences = Caller(request).audiences(user)
        states = (state,) if state is not None else None
        where = Where(audiences=audiences, source=source, lot=lot, kind=kind, states=states)
        found = await opened().store.find(where, after=after, limit=limit)
        standings = await opened().store.standings([shard.id for shard in found])
        data = [shown(shard, standings) for shard in found]
        following = found[-1].revision if len(found) == limit else None
        return JSONResponse({"object": "list", "data": data, "next": following})

    @router.post("")
    async def write(request: Request) -> JSONResponse:
        """A shard by hand. It is a candidate, and given to nobody, until it has been proven on its reader."""
        caller, body = Caller(request), await body_of(request)
        await _admit(opened(), caller)
        scope = Scope.USER if body.get("scope") == "user" else Scope.TENANT
        shard = screen(read_shard(body, tenant=caller.tenant, writer=caller.tenant, trust=caller.trust(scope)))
        caller.may_write(shard)
        stored = (await opened().store.put([shard]))[0]
        return JSONResponse(await told(stored), 201)

    @router.post("/documents")
    async def read_document(request: Request) -> JSONResponse:
        """`{"source", "text", "title"?, "markup"?: "markdown"|"text", "scope"?}`: a document's facts as shards. Sent
        again, only what changed in it changes."""
        caller, body = Caller(request), await body_of(request)
        await _admit(opened(), caller)
        document = _document(body)
        scope = Scope(_one_of(body, "scope", [str(scope) for scope in (Scope.TENANT, Scope.GLOBAL)], "tenant"))
        like = like_of(new_id(), caller.tenant, scope, caller.tenant, caller.trust(scope))
        caller.may_write(like)
        report = await ingest(opened().store, [document], like)
        return JSONResponse({"object": "shards.ingested", **report.as_json()}, 201)

    @router.post("/search")
    async def search(request: Request) -> JSONResponse:
        """`{"query", "reader"?, "user"?, "system"?}`: what would be considered for such a request, and why each is in
        or out."""
        caller, body = Caller(request), await body_of(request)
        query = _text(body, "query")
        messages = [{"role": "system", "content": body["system"]}] if isinstance(body.get("system"), str) else []
        messages.append({"role": "user", "content": query})
        asked = ChatRequest(
            {"messages": messages, "user": body.get("user")},
            key=caller.key,
            tenant=caller.tenant if caller.key else None,
        )
        subject = _subject(live, body.get("reader"), is_needed=False)
        reader = subject.reader if subject else Reader("", Size.TINY)
        choice = await opened().shelf.choose(asked, reader, Wanted())
        texts = await opened().store.get_many([one.shard for one in choice.considered])
        data = [{**one.as_json(), "text": _told(texts.get(one.shard))} for one in choice.considered]
        return JSONResponse({"object": "list", "reader": reader.name or None, "data": data})

    @router.post("/remember")
    async def remember(request: Request) -> JSONResponse:
        """`{"text", "user"}`: something to remember about a user of this key."""
        caller, body = Caller(request), await body_of(request)
        user = _text(body, "user")
        writer = writer_of(caller.tenant, user)
        changes = await opened().memories.remember(_text(body, "text"), caller.tenant, user, writer, "api")
        data = [
            {"action": str(one.action), "id": one.shard.id, "text": one.shard.fact}
            | ({"replaced": one.replaced.id} if one.replaced else {})
            for one in changes
        ]
        return JSONResponse({"object": "list", "data": data}, 201)

    @router.post("/forget")
    async def forget(request: Request) -> JSONResponse:
        """`{"user", "id"? | "query"?, "all"?: true}`: memories of a user of this key."""
        caller, body = Caller(request), await body_of(request)
        what = body.get("id") or body.get("query")
        if not isinstance(what, str):
            raise InvalidRequest("'id' or 'query' must say which memory is meant", param="query")
        user, every = _text(body, "user"), body.get("all") is True
        gone = await opened().memories.forget(what, caller.tenant, user, every=every)
        return JSONResponse({"object": "list", "data": [{"id": shard.id, "text": shard.fact} for shard in gone]})

    @router.post("/purge")
    async def purge(request: Request) -> JSONResponse:
        """`{"source"? , "writer"?, "user"?}`: erase this key's shards from a source, by a writer, or of a user; with a
        user, what was kept to learn from and cached answers too."""
        caller, body = Caller(request), await body_of(request)
        named = {name: body[name] for name in ("source", "writer", "user") if body.get(name) is not None}
        if not named or not all(isinstance(value, str) for value in named.values()):
            raise InvalidRequest("'source', 'writer' or 'user' must say what is to go", param="source")
        erased = await opened().store.delete(Where(tenant=caller.tenant, **named))
        lessons = await opened().lessons.purge(tenant=caller.tenant, user=named["user"]) if "user" in named else 0
        if "user" in named and runtime.database is not None:
            await purge_answers(runtime.database, caller.tenant, named["user"])
            runtime.tell("purge")
            await runtime.answers.look()
        return JSONResponse({"object": "shards.purged", "shards": erased, "lessons": lessons})

    @router.get("/{id}")
    async def read(id: str, request: Request, user: str | None = None) -> JSONResponse:
        return JSONResponse(await told(await own(request, id, user)))

    @router.patch("/{id}")
    async def change(id: str, request: Request) -> JSONResponse:
        """Some fields anew: the next version, a candidate again."""
        caller, body, old = Caller(request), await body_of(request), await own(request, id)
        caller.may_write(old)
        before = {name: value for name, value in shown(old, ()).items() if name in KEYS and value not in ("", [])}
        written = read_shard({**before, **body}, id=id, tenant=old.tenant, writer=caller.tenant, trust=old.trust)
        after = replace(written, version=old.version, author=old.author, created=old.created)
        stored = await opened().store.renew(screen(after))
        return JSONResponse(await told(stored))

    @router.delete("/{id}")
    async def delete(id: str, request: Request) -> JSONResponse:
        shard = await own(request, id)
        Caller(request).may_write(shard)
        await opened().store.delete(Where(), [shard.id])
        return JSONResponse({"id": shard.id, "object": "shard", "deleted": True})

    @router.post("/{id}/test")
    async def test(id: str, request: Request, reader: str | None = None) -> JSONResponse:
        """Replay its cases on a reader now, without it and with it."""
        shard = await own(request, id)
        Caller(request).may_write(shard)
        subject = _subject(live, reader, is_needed=True)
        assert subject is not None
        await opened().workshop.embed()
        [(standing, proof)] = await opened().workshop.prove([shard], subject)
        return JSONResponse({"object": "shard.test", "shard": id, "state": str(standing.state), **proof.as_json()})

    @router.post("/{id}/{verdict}")
    async def judge(id: str, verdict: str, request: Request) -> JSONResponse:
        """`approve`, `reject` or `retire`. Approval says that a person has read it, not that it helps."""
        shard = await own(request, id)
        Caller(request).may_write(shard)
        if verdict not in VERDICTS:
            known = ", ".join(("test", *VERDICTS))
            raise NotFound(f"there is no POST /v1/shards/{{id}}/{verdict[:32]}; there are: {known}")
        why, store = VERDICTS[verdict], opened().store
        return JSONResponse(await told(await (approve(store, shard) if why is None else take_back(store, shard, why))))

    return router


async def _admit(opened: Opened, caller: Caller) -> None:
    """Raises: Overloaded."""
    if caller.is_operator:
        return
    now = time.time()
    for limit, window_s in ((WRITES_A_MINUTE, 60.0), (WRITES_A_DAY, 86_400.0)):
        if await opened.store.written_since(caller.tenant, now - window_s) >= limit:
            raise Overloaded(f"this key has written {limit} shards within {window_s:g} s", retry_after_s=window_s)


def _subject(live: Live, name: str | None, *, is_needed: bool) -> Subject | None:
    subjects = live.gateway.orders.subjects
    if name is not None and not isinstance(name, str):
        raise InvalidRequest("'reader' must be the name of a model", param="reader")
    found = next((one for one in subjects if name is None or one.reader.name == name), None)
    if found is None and (is_needed or name is not None):
        known = ", ".join(one.reader.name for one in subjects) or "none: no policy says 'shards'"
        raise InvalidRequest(f"'{(name or '')[:64]}' is no reader of shards; there are: {known}", param="reader")
    return found


def _document(body: Mapping[str, Any]) -> Document:
    text = _text(body, "text", MAX_DOCUMENT)
    markup = Markup(_one_of(body, "markup", [str(markup) for markup in Markup], str(Markup.MARKDOWN)))
    title = body.get("title")
    return Document(_text(body, "source", 1000), text, markup, title if isinstance(title, str) else "")


def _text(body: Mapping[str, Any], name: str, longest: int = 20_000) -> str:
    value = body.get(name)
    if not isinstance(value, str) or not value.strip() or len(value) > longest:
        raise InvalidRequest(f"'{name}' must be text of 1 to {longest} characters", param=name)
    return value.strip()


def _one_of(body: Mapping[str, Any], name: str, known: list[str], default: str) -> str:
    value = body.get(name, default)
    if value not in known:
        raise InvalidRequest(f"'{name}' must be one of: {', '.join(known)}", param=name)
    return str(value)


def _told(shard: Shard | None) -> str:
    return "" if shard is None else shard.fact or shard.title or shard.trigger
