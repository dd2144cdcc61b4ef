"""README.md and example.py of an exported folder, from the same facts as `export.json`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from kdlora.records.artefact import Artefact, Variant, written_drop
from kdlora.records.record import Record, recorded_licences
from kdlora.ship.card import ModelCard
from kdlora.ship.card_facts import CardFacts
from kdlora.spec.encoders import UNKNOWN_LICENCE
from kdlora.spec.run import (
    DistilledRun,
    EncoderRef,
    Run,
    TrainedRun,
    adapter_of,
    encoder_of,
)
from kdlora.visible import as_markdown, visible
from kdlora.vocabulary.metric import metric
from kdlora.vocabulary.task import GLUE, TASKS

README, EXAMPLE = "README.md", "example.py"
# Between these lines of the README stands what a later calibration replaces.
_BEGIN, _END = "<!-- calibration -->", "<!-- end of calibration -->"
_HUB_GLUE = "nyu-mll/glue"
# How models are told to be trained that have no adapter.
_DISTILLED = {"fft": "full fine-tuning", "frozen": "the last layer alone, its encoder as it came"}
_TRAINED = {"fft": "fully fine-tuned", "frozen": "its last layer fitted to an encoder as it came"}
_SAMPLES = ("A short text to try it on.", "Another one, a little longer than the first.")


def readme(
    artefact: Artefact,
    card: ModelCard,
    record: Record,
    *,
    repository: str,
    notes: list[str],
    facts: CardFacts | None = None,
    languages: Sequence[str] = (),
) -> str:
    """The model card, YAML metadata first. `notes` are further limits that a reader must know.

    `repository` is what the code of the card loads: the folder's name, or that on the hub.
    `languages` are those of its texts; by default what its task says, and unknown without.
    """
    run, known = record.run, facts or CardFacts()
    timed = [t for v in artefact.variants for t in v.timings]
    teacher = artefact.teacher
    values = {
        "title": repository,
        "what": _what(run, artefact),
        "repository": repository,
        "artefact": artefact,
        "card": card,
        "metric": card.metric,
        "direction": " (less is better)" if metric(card.metric).direction < 0 else "",
        "outputs": _outputs(card),
        "on_hub": "/" in repository,
        "has_torch": any(v.runtime == "torch" for v in artefact.variants),
        "has_onnx": any(v.runtime == "onnx" for v in artefact.variants),
        "sample": ", ".join(f'"{text}"' for text in _SAMPLES[: len(card.text_columns)]),
        "shown": _shown_by_torch(card),
        "smaller": teacher is not None and run.role != "teacher",
        "timed": timed,
        "threads": timed[0].threads if timed else 1,
        "teacher_score": ""
        if teacher is None or teacher.score is None
        else f", {teacher.metric} {teacher.score:.4f}",
        "rows": _rows(record),
        "data": list(known.data()),
        "scores": [*known.scores(card), *_scores(record, card)],
        "made": list(_made(record, artefact, card)),
        "quantised": [v for v in artefact.variants if v.how],
        "limit": _limit(artefact),
        "languages": list(languages) or languages_of(run),
        "limits": [*notes, *known.limits(), *_forced(artefact)],
    }
    environment = _environment()
    environment.filters["drop"] = lambda drop: written_drop(drop, artefact.drop_unit)
    body = environment.get_template("model_card.md.j2").render(values)
    body = with_calibration(body, card)
    head = metadata(artefact, card, record, repository=repository, languages=languages)
    return f"---\n{head}\n---\n\n{body}"


def with_calibration(text: str, card: ModelCard) -> str:
    """A README with what the card says of its calibration in the place of what stood there.

    A README without such a place, of an earlier version, gets it before its next section.
    """
    told = "\n".join([_BEGIN, *_calibration_lines(card), _END])
    begin, end = text.find(_BEGIN), text.find(_END)
    if 0 <= begin < end:
        return text[:begin] + told + text[end + len(_END) :]
    place = text.find("\n## Forms")
    return text if place < 0 else f"{text[:place]}\n{told}\n{text[place:]}"


def _calibration_lines(card: ModelCard) -> Iterator[str]:
    """What is done to the logits before there is an answer, and who does it."""
    by = card.calibration
    if by is None:
        return
    several = card.answers.several
    if by.temperature is not None:
        before = "sigmoid" if several else "softmax"
        yield f"- temperature: the logits are divided by {by.temperature:.4f} before the {before}"
    if by.threshold is not None:
        yield (
            f"- threshold: {as_markdown(by.positive or '')} from a probability of "
            f"{by.threshold:.4f} on, best by {by.metric}"
        )
    if by.thresholds is not None:
        each = ", ".join(
            f"{as_markdown(name)} {value:.4f}" for name, value in by.thresholds.items()
        )
        how = (
            "each label whose probability reaches its own"
            if several
            else "the class whose probability exceeds its own by most times"
        )
        yield f"- thresholds: {how}, best by {by.metric}: {each}"
    if (withheld := by.abstention) is not None:
        yield (
            f"- withheld: an answer of a probability of {withheld.cut:.4f} or less is not given, "
            f"so that {100 * withheld.aim:g} % of those given are right, with "
            f"{100 * withheld.level:g} % certainty"
        )
        for split, seen in withheld.splits.items():
            right = "" if seen.accuracy is None else f", {seen.accuracy:.2%} of them right"
            yield f"  - {split} split: {seen.answered:,} of {seen.n:,} answered{right}"
    yield (
        "- chosen on the selection split; `kdlora predict`, `kdlora serve` and `example.py` apply "
        "it, a plain transformers pipeline does not"
    )


def metadata(
    artefact: Artefact,
    card: ModelCard,
    record: Record,
    *,
    repository: str,
    languages: Sequence[str] = (),
) -> str:
    """The hub's YAML: what it is for, what it came from, and its score as the hub lists scores."""
    from huggingface_hub import EvalResult, ModelCardData

    run = record.run
    best, encoder, data = _shipped(artefact), encoder_of(run), _data_set(run)
    results = None
    if best is not None and best.score is not None:
        results = [
            EvalResult(
                task_type="text-classification",
                dataset_type=data.hub_name or run.task.name,
                dataset_name=artefact.task,
                dataset_config=data.config,
                dataset_split=data.split,
                dataset_revision=data.revision,
                metric_type=metric(card.metric).hub_name or card.metric,
                metric_name=card.metric,
                metric_value=round(best.score, 6),
            )
        ]
    tags = ["kdlora", "text-classification"]
    tags += ["multi-label-classification"] if card.answers.several else []
    tags += ["knowledge-distillation"] if isinstance(run, DistilledRun) else []
    tags += [run.adaptation] if adapter_of(run) else []
    tags += sorted({v.runtime for v in artefact.variants} - {"torch"})
    tags += sorted({v.quantization for v in artefact.variants} - {"none"})
    described = ModelCardData(
        library_name="transformers",
        pipeline_tag="text-classification",
        base_model=encoder.hub_name if encoder else None,
        license=recorded_licences(record).get("encoder", UNKNOWN_LICENCE),
        language=_one_or_list(list(languages) or languages_of(run)),
        datasets=[data.hub_name] if data.hub_name else None,
        metrics=[metric(card.metric).hub_name or card.metric],
        model_name=repository if results else None,
        eval_results=results,
        tags=tags,
    )
    return described.to_yaml()


def languages_of(run: Run) -> list[str]:
    """The languages of a run's texts as its task states them; those of own data may be unknown."""
    if run.task.own is not None:
        return list(run.task.own.language)
    return ["en"] if run.task.name in TASKS else []


def example(artefact: Artefact, card: ModelCard) -> str | None:
    """A program of some fifteen lines that asks the best ONNX form; None where there is none."""
    onnx = [v for v in artefact.variants if v.runtime == "onnx"]
    if not onnx:
        return None
    best, by = _shipped(artefact), card.calibration
    chosen = best if best is not None and best.runtime == "onnx" else onnx[-1]
    pair = len(card.text_columns) > 1
    texts: Any = [_SAMPLES] if pair else list(_SAMPLES)
    template = _environment().get_template("example.py.j2")
    return template.render(
        path=chosen.path,
        texts=repr(texts),
        labels=repr(card.label_names) if card.label_names else "",
        temperature=(by.temperature if by else None) or 1.0,
        answer=_answer(card),
        cut=by.abstention.cut if by and by.abstention else None,
        windows=artefact.windows,
        several=card.answers.several,
    )


def _limit(artefact: Artefact) -> str:
    """What of a long text is not read."""
    if artefact.windows is None:
        return f"Texts beyond {artefact.max_length} tokens are cut, and what is cut is not read."
    return (
        f"Of texts of more than {artefact.windows.max_windows} windows some are not read. A text "
        "costs as many passes as it has windows; the times above are of one."
    )


def _answer(card: ModelCard) -> str:
    """The place of the answer among the probabilities `p`, as the example writes it.

    Of several labels a text, which of them are answered.
    """
    by = card.calibration
    if card.answers.several:
        if by is None or by.thresholds is None:
            return "row > 0"
        return f"p >= {[by.thresholds[name] for name in card.label_names]!r}"
    if by is not None and by.thresholds is not None:
        return f"(p / {[by.thresholds[name] for name in card.label_names]!r}).argmax()"
    if by is not None and by.threshold is not None and by.positive is not None:
        place = card.label_names.index(by.positive)
        return f"{place} if p[{place}] >= {by.threshold!r} else {1 - place}"
    return "p.argmax()"


def _outputs(card: ModelCard) -> str:
    """What a reader has to know of the answers."""
    names = ", ".join(map(as_markdown, card.label_names)) or "one number"
    return f"any number of {names}, each by itself (sigmoid)" if card.answers.several else names


def _shipped(artefact: Artefact) -> Variant | None:
    """The form whose figures stand for the model: INT8 where it passed, else the next to run."""
    usable = [v for v in artefact.variants if v.servable]
    order = ("onnx-int8", "onnx", "torch", "onnx-int4")
    return min(usable, key=lambda v: order.index(v.name), default=None)


def _what(run: Run, artefact: Artefact) -> str:
    size = f" of {artefact.parameters / 1e6:.1f} M parameters" if artefact.parameters else ""
    model = f"A {artefact.model_type} classifier{size} for `{artefact.task}`"
    if isinstance(run, DistilledRun):
        name = as_markdown(artefact.teacher.name) if artefact.teacher else "a larger teacher"
        how = _DISTILLED.get(run.adaptation, f"{run.adaptation} adapters, merged")
        return f"{model}, distilled from {name} ({how})."
    how = _TRAINED.get(run.adaptation, f"tuned with {run.adaptation}, merged")
    return f"{model}, {how}, without a teacher."


def _forced(artefact: Artefact) -> Any:
    for v in artefact.variants:
        if v.gate == "forced":
            unit = artefact.drop_unit
            lost = (
                "its score"
                if v.drop_points is None
                else f"{written_drop(v.drop_points, unit)} {unit}"
            )
            yield f"`{v.path}` failed the accuracy gate and ships by force: it loses {lost}."


def _rows(record: Record) -> str:
    assert record.quality is not None
    return ", ".join(f"{n:,} {split}" for split, n in record.quality.n.items()) + " rows"


def _scores(record: Record, card: ModelCard) -> Any:
    assert record.quality is not None
    for split, metrics in record.quality.splits.items():
        shown = ", ".join(f"{k} {v:.4f}" for k, v in metrics.items() if v is not None)
        yield f"{split} split as trained ({record.facts.precision or 'fp32'}): {shown}"
    if record.quality.per_class_f1:
        shown = ", ".join(
            f"{as_markdown(k)} {v:.3f}" for k, v in record.quality.per_class_f1.items()
        )
        yield f"F1 by {'label' if record.quality.per_label else 'class'}: {shown}"
    precision = [
        f"{as_markdown(name)} {one.average_precision:.3f}"
        for name, one in record.quality.per_label.items()
        if one.average_precision is not None
    ]
    if precision:
        yield f"average precision by label: {', '.join(precision)}"
    if record.agreement is not None and record.agreement.agreement is not None:
        a = record.agreement
        kappa = "" if a.kappa is None else f", kappa {a.kappa:.3f}"
        on = "all labels of " if a.per_label else ""
        yield f"agrees with its teacher on {on}{a.agreement:.1%} of the rows{kappa}"
    if card.chosen_because:
        yield f"why this run: {card.chosen_because}"


def _made(record: Record, artefact: Artefact, card: ModelCard) -> Any:
    run = record.run
    assert isinstance(run, TrainedRun)  # nothing else is exported
    encoder = as_markdown(shown_name(run.encoder))
    yield f"run `{artefact.run_id}`, seed {run.seed}, encoder {encoder}"
    if (cut := record.facts.vocabulary) is not None:
        yield (
            f"vocabulary: {cut.tokens_after:,} of {cut.tokens_before:,} tokens, those that cover "
            f"{100 * cut.keep:g} % of {cut.counted_texts:,} texts; the encoder has "
            f"{cut.size_after_mb:,.1f} of {cut.size_before_mb:,.1f} MB. Of {cut.held_out_texts:,} "
            f"other texts {100 * cut.held_out_changed:.1f} % hold a token that was cut, and are "
            "spelled with smaller pieces; the others are read and seen as before"
        )
    epochs = record.facts.planned_epochs or run.training.epochs
    yield (
        f"{epochs:.4g} epochs, batch {run.training.batch_size}, "
        f"learning rate {run.lr:g}, texts read {card.how_long}"
    )
    if run.adapter is not None:
        rank = record.facts.adapter_rank or run.adapter.rank
        yield f"{run.adaptation}: rank {rank}, alpha {run.adapter.alpha}; merged in fp32"
    if isinstance(run, DistilledRun):
        kd = run.kd
        yield f"distilled at temperature {kd.temperature:g}, teacher's share {kd.kd_weight:g}"
    known = recorded_licences(record)
    yield f"licence of the encoder: {known['encoder']}; of `{artefact.task}`: {known['data']}"
    again = f"kdlora run study.yaml --only {artefact.run_id}"
    yield f"made again by `{again}` with the study's own file, kdlora {card.kdlora}"
    if artefact.adapter:
        yield f"`{artefact.adapter}/` holds the adapter alone, as a plain peft folder"


def shown_name(encoder: EncoderRef) -> str:
    """An encoder's name without the path of the machine it lay on."""
    if encoder.source != "folder":
        return encoder.title
    return Path(encoder.name).name


@dataclass(frozen=True)
class _DataSet:
    """A task's rows as the hub calls them; all None for rows that are not there."""

    hub_name: str | None = None
    config: str | None = None
    split: str | None = None
    revision: str | None = None


def _data_set(run: Run) -> _DataSet:
    task = run.task
    if task.source == "hub" and task.name in GLUE:
        return _DataSet(_HUB_GLUE, task.name, "validation")
    if task.own is None or task.own.hub is None or Path(task.own.hub).is_absolute():
        return _DataSet()
    return _DataSet(task.own.hub, task.own.config, task.own.eval, task.own.revision)


def _one_or_list(names: list[str]) -> str | list[str] | None:
    """As the hub's cards have it: nothing, a name, or a list."""
    return names[0] if len(names) == 1 else names or None


def _shown_by_torch(card: ModelCard) -> str:
    """What the code of the card prints of `logits`."""
    if card.answers.numeric:
        return "print(logits.item())"
    shares = "logits.sigmoid()" if card.answers.several else "logits.softmax(-1)"
    return f"print(dict(zip(model.config.id2label.values(), {shares}.tolist())))"


def _environment() -> Environment:
    folder = Path(__file__).parent / "templates"
    environment = Environment(
        loader=FileSystemLoader(folder),
        undefined=StrictUndefined,
        keep_trailing_newline=True,
        trim_blocks=False,
        autoescape=False,
        finalize=visible,
    )
    environment.filters["md"] = as_markdown
    environment.filters["number"] = lambda v, digits: "" if v is None else f"{v:.{digits}f}"
    environment.filters["percent"] = lambda v: "" if v is None else f"{100 * v:.2f} %"
    environment.filters["times"] = lambda v: "" if v is None else f"{v:.1f}x"
    return environment
