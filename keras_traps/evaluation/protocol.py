"""Who attacks what: DEEPSEC's protocol, chunk by chunk.

Candidates are the first test images that the undefended classifier C classifies
correctly, at most as many as asked for. Every attack meets the same candidates and the
same targets, on C and on each variant of the trapped model.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

import keras
import numpy as np
import tqdm

from keras_traps.attacks import Attack
from keras_traps.attractors.integration import DEPTH_RULE
from keras_traps.datasets import Dataset
from keras_traps.evaluation.defence import Defence
from keras_traps.evaluation.engines import Engine
from keras_traps.evaluation.jobs import Subject, Task
from keras_traps.evaluation.records import Record, RecordStore
from keras_traps.provenance import architecture_sha256, array_sha256, weights_sha256


def attack_all(
    engine: Engine,
    attacks: Sequence[Attack],
    store: RecordStore,
    *,
    subjects: Sequence[Subject],
    limits: Mapping[str, int] | None = None,
    chunk_size: int,
) -> dict[Subject, dict[str, Record]]:
    """Runs every attack on every subject, going on from what is recorded.

    Args:
        engine: Where the work is done; its job holds the candidates.
        attacks: The attacks.
        store: Where records are kept.
        subjects: What is attacked.
        limits: How many candidates an attack meets at most, by its name. Defaults to
            all for all.
        chunk_size: How many images are attacked at once and recorded together.

    Returns:
        One record per subject and attack.
    """
    count = len(engine.job.candidates.ids)
    tasks = [
        Task(subject, attack, rows, record_folder(attack), chunk)
        for subject in subjects
        for attack in attacks
        for chunk, rows in enumerate(
            _chunks(min(count, (limits or {}).get(attack.name, count)), chunk_size)
        )
    ]
    done = {
        index: record
        for index, task in enumerate(tasks)
        if (record := recorded(engine, store, task)) is not None
    }
    with tqdm.tqdm(
        total=sum(len(task.rows) for task in tasks),
        initial=sum(len(record.ids) for record in done.values()),
        unit="image",
        smoothing=0.05,
    ) as bar:
        waiting = {
            engine.submit(task): index
            for index, task in enumerate(tasks)
            if index not in done
        }
        while waiting:
            handle, record = engine.finished()
            index = waiting.pop(handle)
            task = tasks[index]
            store.write(task.subject, task.folder, task.chunk, record)
            done[index] = record
            bar.set_description(f"{task.attack.name} on {task.subject}")
            bar.update(len(record.ids))
    return {
        subject: {
            attack.name: Record.join(
                [
                    done[index]
                    for index, task in enumerate(tasks)
                    if task.subject == subject and task.attack is attack
                ]
            )
            for attack in attacks
        }
        for subject in subjects
    }


def recorded(engine: Engine, store: RecordStore, task: Task) -> Record | None:
    """Returns the record of a task, or `None` where there is none of these images."""
    if not store.has(task.subject, task.folder, task.chunk):
        return None
    record = store.read(task.subject, task.folder, task.chunk)
    # An earlier run over fewer candidates ended with a shorter chunk.
    ids = engine.job.candidates.ids[task.rows]
    return record if np.array_equal(record.ids, ids) else None


def record_folder(attack: Attack, *before: Attack) -> str:
    """Returns the folder of an attack's records: its name and a hash of its settings.

    Args:
        attack: The attack.
        *before: Attacks whose outcome the records depend on.

    Returns:
        A name that settings of another value do not share.

    Raises:
        TypeError: If a setting is no plain data.
    """
    settings = [[one.name, one.settings()] for one in (*before, attack)]
    try:
        text = json.dumps(settings, sort_keys=True)
    except TypeError as error:
        raise TypeError(
            f"Invalid settings of the attack {attack.name!r}. Expected numbers, "
            "strings, truth values, and lists of them, by which its records are kept. "
            f"Received: {attack.settings()!r}"
        ) from error
    digest = hashlib.sha256(text.encode())
    return f"{attack.name}-{digest.hexdigest()[:10]}"


def record_settings(
    defence: Defence,
    test: Dataset,
    background: Any,
    *,
    seed: int,
    chunk_size: int,
) -> dict[str, Any]:
    """Returns what all records of an evaluation depend on.

    Args:
        defence: What is attacked.
        test: The test images.
        background: `(images, ...)`: what attacks that learn from many images get.
        seed: Seed of targets and attacks.
        chunk_size: How many images make a record.

    Returns:
        Plain data: the same where the records would be. The attacks' own settings are
        in the names of their folders.
    """
    thresholds = defence.main_analyzer.thresholds
    asked = defence.recovery_classifier
    return {
        "classifier": weights_sha256(defence.classifier),
        # Equal weights may compute something else: with other preprocessing, or
        # without M's softmax. How the models are made is compared, not what they
        # answer: answers are rounded by each machine in its own way, and wherever they
        # are cut to the digits that should agree, some lie on the edge of two.
        "architectures": [
            architecture_sha256(model)
            for model in (defence.classifier, defence.trapped)
        ],
        "output": defence.output,
        "decoder": defence.main_analyzer.decoder.fingerprint,
        "norm": defence.trapped.get_layer("normalized_sum").ord,
        "thresholds": [thresholds.upper, thresholds.lower, thresholds.deviation],
        "recovery_weight": defence.recovery_weight,
        "depth_rule": DEPTH_RULE,
        "test_data": test.sha256,
        "background": array_sha256(background),
        "seed": seed,
        "chunk_size": chunk_size,
        # Records of before there was one do without it.
        **({} if asked is None else {"recovery_classifier": _described(asked)}),
    }


def _described(model: keras.Model) -> list[str]:
    return [weights_sha256(model), architecture_sha256(model)]


def _chunks(count: int, size: int) -> list[Any]:
    return [
        np.arange(start, min(start + size, count)) for start in range(0, count, size)
    ]
