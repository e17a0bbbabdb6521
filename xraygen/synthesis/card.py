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
{conditions}| size | {size}, {channels} channel(s) |
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
        conditions=_conditions(origin["settings"]),
        batch_size=origin["settings"]["batch_size"],
        size=origin["config"]["data"]["image_size"],
        channels=origin["config"]["data"]["channels"],
    )


def _conditions(settings: dict[str, Any]) -> str:
    """A row for a set whose network takes conditions; what each image was told stands in metadata.csv."""
    if "guidance" not in settings:
        return ""
    low_high = settings["guidance_interval"]
    where = "" if low_high is None else f" at noise levels {low_high[0]:g} to {low_high[1]:g}, 1 elsewhere"
    return (
        f"| guidance | weight {settings['guidance']:g}{where}; conditions of each image in `metadata.csv` |\n"
    )
