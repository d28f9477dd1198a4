"""Small Leica SCN slides, made to be read: their scanned region lies within a larger slide."""

from pathlib import Path

import numpy as np
import tifffile

_NM = 500  # nanometres per pixel
_IMAGE = """<image name="{name}" uuid="urn:uuid:{name}"><device model="Leica SCN400" version="1"/>
<pixels sizeX="{pixels[0]}" sizeY="{pixels[1]}">{levels}</pixels>
<view sizeX="{view[0]}" sizeY="{view[1]}" offsetX="{place[0]}" offsetY="{place[1]}" spacingZ="0"/>
<scanSettings><objectiveSettings><objective>{power}</objective></objectiveSettings>
<illuminationSettings><numericalAperture>{aperture}</numericalAperture>
<illuminationSource>brightfield</illuminationSource></illuminationSettings></scanSettings></image>"""


def write_scn(
    path: Path, picture: np.ndarray, origin: tuple[int, int], size: tuple[int, int]
) -> None:
    """Write a slide of a width and height, with a picture at `origin` (x, y), at 0.5 um a pixel."""
    macro = np.full((256, 256, 3), 240, np.uint8)
    pictures = (macro, picture, picture[::2, ::2])
    levels = [
        f'<dimension sizeX="{level.shape[1]}" sizeY="{level.shape[0]}" r="{r}" ifd="{ifd}"/>'
        for ifd, (r, level) in enumerate(zip((0, 0, 1), pictures, strict=True))
    ]
    whole, pixels = [side * _NM for side in size], picture.shape[1::-1]
    images = [
        _IMAGE.format(
            name="macro", pixels=(256, 256), levels=levels[0], view=whole, place=(0, 0),
            power=0.6, aperture=0.01,
        ),
        _IMAGE.format(
            name="image", pixels=pixels, levels="".join(levels[1:]),
            view=[side * _NM for side in pixels], place=[place * _NM for place in origin],
            power=20, aperture=0.4,
        ),
    ]  # fmt: skip
    about = (
        '<?xml version="1.0"?><scn xmlns="http://www.leica-microsystems.com/scn/2010/10/01">'
        f'<collection name="c" uuid="urn:uuid:c" sizeX="{whole[0]}" sizeY="{whole[1]}">'
        f"<barcode>none</barcode>{''.join(images)}</collection></scn>"
    )
    tile = {"tile": (256, 256), "photometric": "rgb", "metadata": None, "compression": "jpeg"}
    with tifffile.TiffWriter(path, bigtiff=True) as out:
        for number, level in enumerate(pictures):
            per_cm = 1e7 / _NM / (2 if number == 2 else 1)
            out.write(
                level, description=about if number == 0 else None,
                resolution=(per_cm, per_cm), resolutionunit="CENTIMETER", **tile,
            )  # fmt: skip
