"""Draws docs/explain.png: two sections of the page that explains an order, as Chromium shows them.

python -m zsg_jax.arrange --train TRAIN --test TEST --encoder FOLDER --method tmta-nft \\
  --output arranged --explain
python docs/draw_explain.py arranged/explain.html
"""

import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from PIL import Image, ImageChops

SHOWN = ("similarity", "turns")
WIDTH, HEIGHT = 871, 2400  # of the window


def main(page: str) -> None:
    """Cuts the sections out of a page, and the picture out of the window."""
    content = Path(page).read_text("utf-8")
    head = content.partition("<main>")[0]
    sections = [
        re.search(rf'<section aria-labelledby="{name}">.*?</section>', content, re.DOTALL)
        for name in SHOWN
    ]
    browser = shutil.which("chromium") or shutil.which("chromium-browser")
    assert browser is not None, "this needs Chromium"
    with tempfile.TemporaryDirectory() as folder:
        part, shot = Path(folder) / "part.html", Path(folder) / "shot.png"
        body = "".join(found[0] for found in sections if found)
        part.write_text(f"{head}<main>{body}</main></body></html>", "utf-8")
        flags = ["--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"]
        flags += [f"--window-size={WIDTH},{HEIGHT}", f"--screenshot={shot}"]
        subprocess.run([browser, *flags, part.as_uri()], check=True, capture_output=True)
        with Image.open(shot) as opened:
            image = opened.convert("RGB")
    blank = Image.new("RGB", image.size, image.getpixel((0, 0)))
    left, top, right, bottom = ImageChops.difference(image, blank).getbbox() or (0, 0, *image.size)
    cut = image.crop((left - 6, top - 6, right + 6, bottom + 6))
    cut.quantize(64).save(Path(__file__).with_name("explain.png"), optimize=True)


if __name__ == "__main__":
    main(sys.argv[1])
