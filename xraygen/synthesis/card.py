"""The data set card that lies beside every SYNTHETIC."""

from typing import Any

_CARD = """# Synthetic chest films: not for diagnosis

{count} synthetic images made by xraygen {version} on {created}. No image shows a patient, but a network can repeat
what it was trained on: what this set reveals is what its audit says (`xraygen audit`), and no more.

| | |
|---|---|
| set | {id} |
| checkpoint | step {step}, sha256 of the averaged weights {ema_sha256} |
| sampler | {sampler}, {steps} steps |
| size | {size}, {channels} channel(s) |
| compute batch | {batch_size} (part of what makes an image repeat to the bit) |

`metadata.csv` has a row per image with its seed and hash; `provenance.json` the whole configuration.

    from datasets import load_dataset
    images = load_dataset("imagefolder", data_dir=".")
"""


def data_set_card(origin: dict[str, Any], count: int) -> str:
    """The card of a set of `count` images with this provenance, in Markdown."""
    return _CARD.format(
        count=count,
        version=origin["environment"]["xraygen"],
        created=origin["created"],
        id=origin["id"],
        step=origin["checkpoint"]["step"],
        ema_sha256=origin["checkpoint"]["ema_sha256"],
        sampler=origin["settings"]["sampler"],
        steps=origin["settings"]["steps"],
        batch_size=origin["settings"]["batch_size"],
        size=origin["config"]["data"]["image_size"],
        channels=origin["config"]["data"]["channels"],
    )
