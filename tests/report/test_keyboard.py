"""Every control of the pages is reached by Tab and used by Enter or Space, in Chromium."""

import asyncio
import shutil
import subprocess
import time
from contextlib import contextmanager

import numpy as np
import pytest

from zsg_jax.arrangement import tmta
from zsg_jax.arrangement.embedded import EmbeddedPair
from zsg_jax.data.dataset import from_list
from zsg_jax.data.instance import Instance, Turn
from zsg_jax.report.explain import explain
from zsg_jax.report.page import write_report

pytestmark = [pytest.mark.ci, pytest.mark.slow]
KEYS = {"Tab": 9, "Enter": 13, " ": 32}
# Whatever a mouse can press, as far as it is shown; numbered, so that it can be told by its number.
CONTROLS = """
[...document.querySelectorAll("a[href], button, input, summary, [tabindex]")]
  .filter((one) => one.checkVisibility())
"""


class Walker:
    """A page in Chromium, to which keys are sent."""

    def __init__(self, socket):
        self._socket, self._number = socket, 0

    async def ask(self, method, **params):
        self._number += 1
        await self._socket.send_json({"id": self._number, "method": method, "params": params})
        while True:
            told = await self._socket.receive_json(timeout=30)
            if told.get("id") == self._number:
                assert "error" not in told, told
                return told["result"]

    async def value(self, expression):
        """What JavaScript makes of an expression that JSON can hold."""
        told = await self.ask("Runtime.evaluate", expression=expression, returnByValue=True)
        assert "exceptionDetails" not in told, told
        return told["result"].get("value")

    async def press(self, *keys):
        for key in keys:
            own = {"key": key, "windowsVirtualKeyCode": KEYS.get(key, ord(key[0].upper()))}
            text = {"text": "\r" if key == "Enter" else key} if key != "Tab" else {}
            await self.ask("Input.dispatchKeyEvent", type="keyDown", **own, **text)
            await self.ask("Input.dispatchKeyEvent", type="keyUp", **own)

    async def tab_to(self, condition):
        """Presses Tab until the focus is at what the condition holds of."""
        for _ in range(400):
            await self.press("Tab")
            if await self.value(f"((at) => !!({condition}))(document.activeElement)"):
                return
        raise AssertionError(f"Tab does not reach {condition}")


@contextmanager
def chromium(folder):
    browser = shutil.which("chromium") or shutil.which("chromium-browser")
    if browser is None:
        pytest.skip("there is no chromium to open the page with")
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--remote-debugging-port=0"]
    process = subprocess.Popen(
        [browser, *flags, f"--user-data-dir={folder}", "about:blank"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        port, until = folder / "DevToolsActivePort", time.monotonic() + 60
        while not (port.exists() and "\n" in port.read_text()):
            assert time.monotonic() < until
            time.sleep(0.1)
        yield port.read_text().splitlines()[0]
    finally:
        process.kill()
        process.wait()


def walked(page, folder, walk):
    """Opens a page and does `walk` with it."""
    aiohttp = pytest.importorskip("aiohttp")

    async def run(port):
        async with aiohttp.ClientSession() as session:
            async with session.get(f"http://127.0.0.1:{port}/json/list") as answer:
                target = next(one for one in await answer.json() if one["type"] == "page")
            async with session.ws_connect(target["webSocketDebuggerUrl"], max_msg_size=0) as socket:
                walker = Walker(socket)
                await walker.ask("Page.enable")
                await walker.ask("Page.navigate", url=page.as_uri())
                while await walker.value("document.readyState") != "complete":
                    await asyncio.sleep(0.1)
                return await walk(walker)

    with chromium(folder) as port:
        return asyncio.run(run(port))


async def check_all_are_reached(walker):
    """Tab goes to every control that is shown, and each then has a mark around it."""
    count = await walker.value(f"(window.controls = {CONTROLS}).length")
    met = set()
    for _ in range(count + 5):
        await walker.press("Tab")
        number, marked = await walker.value(
            "((at) => [controls.indexOf(at), at.matches(':focus-visible')"
            " && getComputedStyle(at).outlineStyle !== 'none'])(document.activeElement)"
        )
        met.add(number)
        assert marked or number == -1
    missed = set(range(count)) - met
    told = [await walker.value(f"controls[{one}].outerHTML.slice(0, 200)") for one in missed]
    assert count > 10
    assert told == []


async def check_sorting(walker):
    await walker.tab_to("at.closest('thead') && at.closest('th').cellIndex === 1")
    way = "document.activeElement.closest('th').getAttribute('aria-sort')"
    for key, expected in (("Enter", "ascending"), (" ", "descending")):
        await walker.press(key)
        assert await walker.value(way) == expected
    await walker.tab_to("at.textContent === 'Copy as CSV'")
    await walker.press("Enter")
    await asyncio.sleep(0.3)
    assert await walker.value("document.activeElement.nextSibling.textContent") == " Copied."


async def check_folds(walker):
    await walker.tab_to("at.tagName === 'SUMMARY'")
    opened = "document.activeElement.parentElement.open"
    before = await walker.value(opened)
    for key in ("Enter", " "):
        await walker.press(key)
        before = not before
        assert await walker.value(opened) == before


async def check_titles_of_figures(walker):
    """A pointer over a point, and over a line beside its points, meets what has a title."""
    for shape in ("circle", "polyline"):
        told = await walker.value(f"""
          (() => {{
            const all = [...document.querySelectorAll(".drawing {shape}")];
            return [all.length, all.every((one) => {{
              one.scrollIntoView({{block: "center"}});
              let {{left, top, width, height}} = one.getBoundingClientRect();
              if (one.points) {{
                const [a, b] = one.points, m = one.getScreenCTM();
                const [x, y] = [(a.x + b.x) / 2, (a.y + b.y) / 2];
                [left, top, width, height] = [m.a * x + m.e, m.d * y + m.f, 0, 0];
              }}
              const met = document.elementFromPoint(left + width / 2, top + height / 2);
              return met?.querySelector("title") && met.localName === one.localName;
            }})];
          }})()""")
        assert told[0] > 5
        assert told[1]


def test_a_report_is_walked_by_keys(make_runs, make_trajectory, tmp_path):
    runs = make_runs()
    followed = dict.fromkeys(runs, make_trajectory({"nearest": [0.1, 0.2, 0.3]}))
    page = write_report(
        tmp_path / "report",
        runs,
        followed,
        {"Rows": "8"},
        command="python -m zsg_jax.main",
        explained={"nft": "../nft.html"},
    )

    async def walk(walker):
        await check_all_are_reached(walker)
        await check_sorting(walker)
        await check_folds(walker)
        await check_titles_of_figures(walker)

    walked(page, tmp_path / "browser", walk)


def test_the_page_of_an_order_is_walked_by_keys(tmp_path):
    rng = np.random.default_rng(0)
    train, test = (rng.normal(size=(n, 6)).astype(np.float32) for n in (60, 5))

    def dataset(side, count):
        turns = [(Turn("user", f"{side} asks {n}"), Turn("assistant", "x")) for n in range(count)]
        return from_list(
            [Instance(f"{side}-{n}", f"t{n % 2}", t, ("x",)) for n, t in enumerate(turns)]
        )

    pair = EmbeddedPair(
        dataset("a", 60), dataset("b", 5), train, test, np.arange(60), np.arange(5), {}
    )
    made = tmta(train, test)
    page = explain(tmp_path / "page.html", made, pair, leakage=None, facts={}, title="An order")

    async def walk(walker):
        await check_all_are_reached(walker)
        await check_sorting(walker)
        await check_folds(walker)
        await walker.tab_to("at.type === 'search'")
        await walker.press(*"b-3")
        shown = await walker.value(
            "[...document.activeElement.closest('section').querySelectorAll('article')]"
            ".filter((one) => one.checkVisibility()).map((one) => one.textContent)"
        )
        assert shown
        assert all("b-3" in one for one in shown)
        # What was found is read on from there.
        await walker.press("Tab")
        assert await walker.value("document.activeElement.tagName") == "SUMMARY"

    walked(page, tmp_path / "browser", walk)
