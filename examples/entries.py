"""What models.json lists of the budget's stages: which are finished, what can be gone on from, what is published."""

from dataclasses import replace

from examples import ROOT
from examples.budgets import AGAIN, FullPrecision, Quantized, full_precision_name, recipe
from examples.listing import ListedNetwork, read_listed, test_run, write_listed
from examples.page import write_page
from examples.results import SETS, scores
from model.saved import file_hash
from option import EXPERIMENT_ROOT
from utility import lock

PRETRAINED = ROOT / "pretrained"
RUNS = "networks"  # below the experiments' folder


def full_precision_file(network):
    """The file of a network, as edsr_x4, in full precision."""
    return PRETRAINED / f"{full_precision_name(network)}.pt"


def output_file(stage):
    """The file that a stage makes: in pretrained/, or, for comparison only, beside the journal."""
    if isinstance(stage, FullPrecision):
        return full_precision_file(stage.network)
    if stage.shipped:
        return PRETRAINED / f"{stage.name}.safetensors"
    return EXPERIMENT_ROOT / RUNS / f"{stage.name}.pth.tar"


def made_here(stage):
    """The stage without what need not be trained again, as it begins with a shipped quantized network's weights."""
    if coarse_start(stage):
        return replace(stage, parts=AGAIN)
    return replace(stage, steps=0) if earlier_file(stage) else stage


def coarse_start(stage):
    """The quantized file, the widest shipped, from whose weights full precision that is not shipped is trained again.

    None for other stages, and where the budget has other numbers by now than those that made the listed network.
    """
    if not isinstance(stage, FullPrecision) or stage.shipped:
        return None
    listed = entry_of(stage)
    if listed is None or listed.recipe != recipe(stage):
        return None
    files = (PRETRAINED / entry.file for entry in read_listed(PRETRAINED)  # in order: wide before narrow
             if entry.shipped and entry.recipe["network"] == stage.network)
    return next((file for file in files if file.is_file()), None)


def earlier_file(stage):
    """The file of a listed network that lacks nothing but the budget's `more` steps; None where there is none.

    The shipped one, or its copy, once the next one has been packed in its place.
    """
    entry = entry_of(stage)
    if not isinstance(stage, Quantized) or not stage.more or entry is None or \
            entry.recipe != recipe(replace(stage, more=None)):
        return None
    shipped = output_file(stage)
    return next((file for file in (start_file(stage, shipped.suffix), shipped)
                 if file.is_file() and file_hash(file) == entry.sha256), None)


def start_file(stage, suffix):
    """Where a copy is kept of what a stage's training here begins with."""
    return EXPERIMENT_ROOT / RUNS / f"{stage.name}.start{suffix}"


def finished(stage):
    """Whether models.json lists a stage as made by the budget's present numbers, and its file is there.

    Of what is compared only, the figures are enough: nothing starts from it.
    """
    entry = entry_of(stage)
    if entry is None or entry.recipe != recipe(stage):
        return False
    return stage.for_comparison or entry.is_in(PRETRAINED)


def entry_of(stage):
    """The stage's ListedNetwork, None where it has none."""
    return next((entry for entry in read_listed(PRETRAINED) if entry.file == output_file(stage).name), None)


def publish(stage, sets, *, again_from=""):
    """List the stage's file with its hash, recipe and figures of `sets` in models.json and on the page beside it."""
    found = scores(test_run(output_file(stage).name), (stage.model, stage.scale), sets)
    results = {name: [round(value, 6) for value in found[name]] for name in SETS if name in found}
    _replace_entry(stage, file_hash(output_file(stage)), results, stage.variant, again_from)


def publish_divergence(stage, epoch):
    """List a stage whose training ends in an epoch with a loss that is not finite: it has no file and no figures."""
    _replace_entry(stage, "", {}, ", ".join(filter(None, (stage.variant, f"diverges in epoch {epoch}"))))


def _replace_entry(stage, sha256, results, variant, again_from=""):
    entry = ListedNetwork(output_file(stage).name, stage.model, stage.scale, stage.k_bits, sha256, results, variant,
                          stage.shipped, recipe(stage), again_from)
    with open(EXPERIMENT_ROOT / RUNS / ".lock", "w") as file:
        lock(file, wait=True)  # another queue may be publishing
        write_listed(PRETRAINED, [*(other for other in read_listed(PRETRAINED) if other.file != entry.file), entry])
        write_page(PRETRAINED)
