"""Bucketing: batches of examples of similar length, and their order in training."""

from __future__ import annotations

import random
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, pairwise
from typing import Any

import numpy as np
import torch
from accelerate.data_loader import prepare_data_loader
from numpy.typing import NDArray
from torch.utils.data import DataLoader, Dataset, Sampler

from mtcpo.models.layouts.base import Example, Layout

Indices = NDArray[np.int64]
"""Indices of a batch's examples. Arrays, mostly views of a single one: 8 bytes per example, a fifth of a list."""

Lengths = Sequence[tuple[int, int]] | NDArray[np.int32]
"""(encoder, decoder) length of each example, in tokens."""


@dataclass(frozen=True, slots=True)
class BatchLimits:
    """The limits of a batch's size.

    examples: maximum. tokens: maximum, padding included (sources x longest source + targets x longest target).
    targets: targets per source, 2 for pairs.
    """

    examples: int
    tokens: int | None = None
    targets: int = 1


def length_batches(lengths: Lengths, limits: BatchLimits, seed: int) -> list[Indices]:
    """Group examples by (encoder, decoder) length into batches, returned as indices; ties in random order."""
    order = _by_length(np.asarray(lengths, np.int64).reshape(-1, 2), seed)
    starts: list[int] = []
    encoder = decoder = 0
    for position, index in enumerate(order):
        own_encoder, own_decoder = int(lengths[index][0]), int(lengths[index][1])
        encoder, decoder = max(encoder, own_encoder), max(decoder, own_decoder)
        size = position - starts[-1] + 1 if starts else 1
        padded = size * (encoder + limits.targets * decoder)
        is_full = size > limits.examples or (limits.tokens is not None and padded > limits.tokens)
        if not starts or is_full:
            starts.append(position)
            encoder, decoder = own_encoder, own_decoder
    return [order[start:stop] for start, stop in pairwise([*starts, len(order)])]


def _by_length(lengths: NDArray[np.int64], seed: int) -> Indices:
    """Return indices sorted by decoder length, then encoder length; ties in random order. lengths: (N, 2)."""
    shuffled = array("q", range(len(lengths)))
    random.Random(seed).shuffle(shuffled)
    indices = np.array(shuffled, np.int64)
    # lexsort is stable and takes the last key first.
    ordered: Indices = indices[np.lexsort(lengths[indices].T)]
    return ordered


def divide_evenly(batches: Sequence[Indices], processes: int) -> list[Indices]:
    """Make the number of batches a multiple of `processes`, so that all take equally many steps; keep their order.

    The largest batches are split. If all have a single example, the shortest are joined in pairs, regardless of the
    limits. Nothing is dropped, and nothing is repeated unless there are fewer examples than processes.
    """
    batches = list(batches)
    while len(batches) % processes:
        largest = max(range(len(batches)), key=lambda i: len(batches[i]))
        batch = batches[largest]
        if len(batch) == 1:
            break
        batches[largest : largest + 1] = [batch[: len(batch) // 2], batch[len(batch) // 2 :]]
    excess = len(batches) % processes
    if excess and len(batches) > processes:
        joined = [np.concatenate(batches[2 * i : 2 * i + 2]) for i in range(excess)]
        return joined + batches[2 * excess :]
    if not excess:
        return batches
    return batches + [batches[i % len(batches)] for i in range(processes - excess)]


class LengthBatchSampler(Sampler[list[int]]):
    """Yields this process's batches. The seed determines their composition; seed and epoch determine their order."""

    def __init__(
        self,
        lengths: Lengths,
        limits: BatchLimits,
        seed: int,
        shuffle: bool = True,
        process: int = 0,
        processes: int = 1,
    ) -> None:
        self.batches = divide_evenly(length_batches(lengths, limits, seed), processes)
        self.seed, self.shuffle, self.process, self.processes = seed, shuffle, process, processes
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch, which determines the order of the next iteration."""
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.batches) // self.processes

    def __iter__(self) -> Iterator[list[int]]:
        # In a step, all processes take batches of similar length, so none waits for another's longer batch.
        steps = [self.batches[i : i + self.processes] for i in range(0, len(self.batches), self.processes)]
        if self.shuffle:
            random.Random(f"{self.seed}-{self.epoch}").shuffle(steps)
        for step in steps:
            yield step[self.process].tolist()


class ExampleSet(Dataset[Example]):
    """Tokenized examples, in memory or memory-mapped."""

    def __init__(self, examples: Sequence[Example]) -> None:
        self.examples = examples

    def __len__(self) -> int:
        return len(self.examples)

    def __getitem__(self, index: int) -> Example:
        return self.examples[index]


def length_loader(
    dataset: ExampleSet, layout: Layout, args: Any, limits: BatchLimits, shuffle: bool
) -> DataLoader[Example]:
    """Return a loader of this process's batches of a data set. args: the training arguments."""
    seed = args.seed if args.data_seed is None else args.data_seed
    pairs_of_lengths = chain.from_iterable(map(layout.lengths, dataset.examples))
    lengths = np.fromiter(pairs_of_lengths, np.int32, 2 * len(dataset)).reshape(-1, 2)
    loader = DataLoader(
        dataset,
        batch_sampler=LengthBatchSampler(lengths, limits, seed, shuffle, args.process_index, args.world_size),
        collate_fn=layout.collate,
        num_workers=args.dataloader_num_workers,
        pin_memory=args.dataloader_pin_memory and torch.cuda.is_available(),
        persistent_workers=args.dataloader_persistent_workers,
        prefetch_factor=args.dataloader_prefetch_factor,
    )
    # The sampler has already selected this process's batches: tell accelerate that there is a single process, so that
    # it only moves batches to the device.
    prepared: DataLoader[Example] = prepare_data_loader(
        loader, device=args.device, num_processes=1, process_index=0, put_on_device=True, non_blocking=True
    )
    return prepared
