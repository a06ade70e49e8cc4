"""`gateway eval …`: how good the parts are, on data that somebody else has labelled."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Annotated

import typer

from gateway.terminal import AsJson, bar, console, print_json

app = typer.Typer(help="Measure on data with known answers.", no_args_is_help=True)


@app.callback()
def evaluate() -> None:
    pass


@app.command()
def routing(
    train: Annotated[Path, typer.Option(help="Folder with the data to train on: the split `train` of its files.")],
    data: Annotated[Path, typer.Option(help="Folder or file with the prompts to predict.")],
    out: Annotated[Path, typer.Option(help="File to write, a JSON line for each prompt.")],
    split: Annotated[str, typer.Option(help="Which prompts of --data, or several splits with commas.")] = "dev",
    labels: Annotated[
        int | None, typer.Option(min=0, help="Use at most so many labelled prompts of each set that is predicted.")
    ] = None,
    without: Annotated[list[str] | None, typer.Option(help="Leave this set out of training.")] = None,
    cache: Annotated[
        Path | None, typer.Option(help="Folder for embeddings, so that the next run need not make them.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Train the learned router and predict prompts it has not seen; the baselines beside it."""
    import orjson

    from gateway.evals import routing as run
    from gateway.evals import routing_report as report
    from gateway.evals.routing_data import read
    from gateway.evals.routing_vectors import Vectors
    from gateway.runtime import gateway_home

    training, wanted = read(train, ["train"]), read(data, split.split(","))
    for name in without or ():
        training = run.without(training, name)
    vectors = Vectors(cache or Path(tempfile.gettempdir()) / "onion-router-cache", gateway_home())
    with bar("embedding", as_json) as step:
        outcome = run.run(training, wanted, vectors, labels, step)
    lines = [orjson.dumps(one.line) for of_set in outcome.predicted.values() for one in of_set]
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_bytes(b"\n".join(lines) + b"\n")
    numbers = {name: report.measured(wanted.sets[name], of_set) for name, of_set in outcome.predicted.items()}
    times = report.timed(outcome.router, wanted.all(), vectors)
    if as_json:
        print_json({"sets": numbers, "fit_s": round(outcome.fit_s, 1), "decision": times, "lines": len(lines)})
        return
    console.print(report.table(outcome, numbers))
    console.print(
        f"fitted in {outcome.fit_s:.1f} s · a decision takes {times['plain_us']} µs by n-grams alone, "
        f"{times['embedded_us'] / 1000:.1f} ms with an embedding of about 50 tokens · {len(lines)} lines in {out}",
        highlight=False,
        soft_wrap=True,
    )
