"""Test prices in the Python API: looked up, set, removed, and applied to calls without one; on both stores."""

from __future__ import annotations

from contextlib import AbstractContextManager
from decimal import Decimal
from pathlib import Path

import pytest
from sqlalchemy import Connection

from coordination import connect
from coordination.base.errors import NotFound, Refused
from coordination.settings import load_settings
from coordination.store.engine import Store

LINES = "".join(
    f'{{"id":"c{index}","model":"{model}","input_tokens":1000000,"output_tokens":0,{cost}'
    f'"timestamp":"2026-0{index}-28T12:00:00Z"}}\n'
    for index, (model, cost) in enumerate(
        [("house-llama", ""), ("house-llama", ""), ("gpt-5-mini", '"cost_usd":0.0,')], start=1
    )
)


def test_prices_are_set_and_given_to_calls_in_python(
    store_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "costs.jsonl"
    path.write_text(LINES)
    with connect(load_settings({"COORD_DATABASE_URL": store_url, "COORD_HOME": str(tmp_path / "home")})) as co:
        project = co.costs.import_file(path).project
        assert co.prices.of("house-llama") is None
        quote = co.prices.of("gpt-5-mini")
        assert quote is not None
        assert quote.by.startswith("genai-prices")

        co.prices.set("house-llama", input="0.40", output=Decimal("0.40"))
        co.prices.set("house-llama", input=2, output=2, cached_input=1.5, project=project)

        assert [
            (one.model, one.project_id is None, one.price.input.usd) for one in co.prices.list() if one.price.input
        ] == [
            ("house-llama", True, Decimal("0.4")),
            ("house-llama", False, Decimal(2)),
        ]
        dry = co.costs.reprice(dry_run=True, since="2026-02")
        assert (dry.corrected, dry.added_usd, co.costs.total().cost_usd) == (1, 2, 0)
        assert co.costs.reprice(project=project).added_usd == 4
        assert co.costs.reprice().corrected == 0, "a repetition bills nothing"
        assert co.costs.reprice(zero=True).corrected == 1
        assert co.costs.total().cost_usd == Decimal("4.25")

        co.prices.delete("house-llama", project=project)
        own_quote = co.prices.of("house-llama", project=project)
        assert own_quote is not None
        assert own_quote.price.input is not None
        assert own_quote.price.input.usd == Decimal("0.4")
        for wrong in (
            lambda: co.prices.set("house-llama", input=-1, output=1),
            lambda: co.prices.set("house-llama", input=float("nan"), output=1),
            lambda: co.prices.set("house-llama", input="1e309", output=1),
            lambda: co.prices.set(" ", input=1, output=1),
            lambda: co.costs.reprice(since="soon"),
        ):
            with pytest.raises(Refused):
                wrong()
        with pytest.raises(NotFound):
            co.prices.delete("house-llama", project=project)
        with pytest.raises(NotFound):
            co.prices.of("gpt-5-mini", project="nowhere")


def test_prices_and_the_names_of_their_projects_are_of_one_moment(
    store_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with connect(load_settings({"COORD_DATABASE_URL": store_url, "COORD_HOME": str(tmp_path / "home")})) as co:
        project = co.projects.create("shop", remote="https://example.org/acme/shop.git")
        co.prices.set("house-llama", input=2, output=2, project=project.id)
        begun, read = list[Store](), Store.read

        def counted_read(store: Store) -> AbstractContextManager[Connection]:
            begun.append(store)
            return read(store)

        monkeypatch.setattr(Store, "read", counted_read)

        assert [name for _, name in co.prices.list_with_projects()] == ["shop"]
        assert len(begun) == 1, "a project that is deleted in between would have no name, as if the price were for all"
