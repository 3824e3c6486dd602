"""`nexus verify`: a certificate that a checkpoint, or a family, gives what the reference gives."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from nexus_universal.architecture import registry
from nexus_universal.architecture.errors import InputError
from nexus_universal.cli import mutants, options, output, sources

if TYPE_CHECKING:
    from nexus_universal.parity.certificate import Certificate

DRAWS = 12
COLOURS = {"bit-equal": "green", "within floor": "green", "inconclusive": "yellow", "wrong": "red"}


def verify(
    source: options.Source = None,
    family: options.FamilyName = None,
    mutants_of: Annotated[
        str | None,
        typer.Option("--mutants", metavar="TYPE", help="Try every wrong n of a family: are at least 97 % noticed?"),
    ] = None,
    draws: Annotated[
        int | None,
        typer.Option(min=1, help="Random configs to draw (--family: 12; --mutants: as many as its values need)."),
    ] = None,
    seed: Annotated[int, typer.Option(help="Where the random weights and prompts come from.")] = 0,
    json_file: Annotated[
        Path | None, typer.Option("--json", metavar="FILE", help="Write the certificate as JSON; - prints it.")
    ] = None,
    markdown_file: Annotated[
        Path | None, typer.Option("--markdown", metavar="FILE", help="Write it as Markdown; - prints it.")
    ] = None,
    ignore_key: options.IgnoreKeys = None,
    dtype: Annotated[
        options.Dtype, typer.Option(help="Numbers to compute in; auto: the checkpoint's, float32 for a family.")
    ] = "auto",
    revision: options.Revision = None,
) -> None:
    """Prove a checkpoint, or a family on random weights, against the reference. Exit status 1 if it is not proven.

    Of a union (`nexus union`) every tensor is held to the hash of what was packed.
    """
    if mutants_of is not None:
        if source or family or markdown_file or ignore_key or revision or dtype != "auto":
            raise InputError("--mutants TYPE goes with --draws, --seed and --json only: it tries precisions by itself")
        return mutants.report(mutants_of, draws=draws, seed=seed, json_file=json_file)
    named = sources.one_of(source, family)
    if sources.is_union(named):
        if draws or ignore_key or revision or dtype != "auto":
            raise InputError(f"{named} is a union: it is held to its own hashes, with --json and --markdown only")
        return _union(named, json_file, markdown_file)
    hub = sources.of_hub(named, revision)
    if source is None:
        registry.family(named)
        if ignore_key:
            raise InputError("--ignore-key speaks of a checkpoint's config: it does not go with --family")
    else:
        sources.local_directory(named)
    with output.status() as progress:
        progress("loading torch and the reference library")
        from transformers.utils import logging

        from nexus_universal.parity.verify import verify_checkpoint, verify_family

        logging.disable_progress_bar()
        if source is None:
            chosen = "float32" if dtype == "auto" else dtype
            certificate = verify_family(named, draws=draws or DRAWS, seed=seed, dtype=chosen, progress=progress)
        else:
            certificate = verify_checkpoint(
                named, ignore_keys=tuple(ignore_key or ()), dtype=dtype, seed=seed, progress=progress, **hub
            )
    if json_file is not None:
        output.write_file(json_file, certificate.to_json())
    if markdown_file is not None:
        output.write_file(markdown_file, certificate.to_markdown())
    if Path("-") not in (json_file, markdown_file):
        _show(named, certificate)
    if not certificate.proven:
        raise typer.Exit(1)


def _union(path: str, json_file: Path | None, markdown_file: Path | None) -> None:
    """A union's certificate: every tensor is held to the hash of what was packed. The originals are not needed."""
    with output.status() as progress:
        progress("loading torch")
        from nexus_universal.fusion.union.verify import verify_union

        certificate = verify_union(path, progress=progress)
    for file, text in ((json_file, certificate.to_json()), (markdown_file, f"```\n{certificate}\n```\n")):
        if file is not None:
            output.write_file(file, text)
    if Path("-") not in (json_file, markdown_file):
        output.console().print(str(certificate), markup=False, soft_wrap=True)


def _show(name: str, certificate: Certificate) -> None:
    from rich.table import Table

    out = output.console()
    table = Table(box=None, pad_edge=False, header_style="dim")
    table.add_column("mode")
    table.add_column("verdict")
    for title in ("max |Δ|", "floor", "KL", "flips"):
        table.add_column(title, justify="right")
    for row in certificate.rows:
        colour = COLOURS.get(row.verdict, "red")
        numbers = (f"{value:.3g}" for value in (row.max_difference, row.floor, row.kl, row.flips))
        table.add_row(row.mode, f"[{colour}]{row.verdict}[/{colour}]", *numbers)
    out.print(table)
    for law in certificate.laws:
        if not law.holds:
            out.print(f"[red]broken law: {law.law}[/red] (difference {law.difference:.3g}, allowed {law.floor:.3g})")
    if certificate.divergence:
        out.print(f"first divergence: {certificate.divergence}", markup=False, soft_wrap=True)
    if certificate.failing_config:
        out.print(f"failing config: {json.dumps(certificate.failing_config)}", markup=False, soft_wrap=True)
    if certificate.coverage:
        out.print(f"reference lines run: {certificate.coverage}", markup=False, soft_wrap=True)
    colour = COLOURS.get(certificate.verdict, "red")
    proven = "proven" if certificate.proven else "not proven"
    out.print(f"{name}: [bold {colour}]{certificate.verdict}[/bold {colour}] · {proven}", soft_wrap=True)
