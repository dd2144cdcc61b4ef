"""The record of one run (schema 1): five blocks, units in every name, written once and last.

A folder with a `record.json` is a finished run; without one it is not, whatever else lies in it.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import ConfigDict, Field

from kdlora.measure.blocks import Agreement, Block, Efficiency, Flag, Quality, TrainingFacts
from kdlora.spec.fingerprint import hash_json
from kdlora.spec.run import Run

SCHEMA = 1


class Record(Block):
    """Everything known of one run. `checksum` is over all other fields."""

    schema_version: int = Field(SCHEMA, alias="schema")
    run_id: str
    status: Literal["done", "failed"] = "done"
    error: str | None = None
    run: Run
    facts: TrainingFacts = TrainingFacts()
    quality: Quality | None = None
    agreement: Agreement | None = None
    efficiency: Efficiency = Efficiency()
    health: list[Flag] = []
    environment: dict[str, Any] = {}
    started_at: str = ""
    finished_at: str = ""
    checksum: str = ""

    model_config = ConfigDict(extra="forbid", populate_by_name=True)

    def sealed(self) -> Record:
        return self.model_copy(update={"checksum": self.expected_checksum()})

    def expected_checksum(self) -> str:
        return checksum(self.model_dump(mode="json", by_alias=True))


def checksum(values: dict[str, Any]) -> str:
    """The checksum of a record as it is written, over all but the checksum itself."""
    return hash_json({k: v for k, v in values.items() if k != "checksum"}, 32)
