"""The page as a person uses it: real Chromium against the real API over HTTP, the story from start to end.

It needs Chromium on the PATH (or its path in CHROMIUM). With AXE_CORE, the path of axe-core's axe.min.js
(``npm pack axe-core``), accessibility is checked, too.
"""

import os
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from genrec.config import ServeSettings
from genrec.recommender import Recommender
from serve.api import create_api
from serve.journal import Journal
from serve.keys import load_digests
from serve.recommender import RecommenderLogic
from serve.store import FeedbackStore, sqlite_url
from tests.live_api import DrawingContent, LogicBackend, drawing, live
from tests.serving import assembled_bundle

playwright = pytest.importorskip("playwright.sync_api", reason="pip install playwright drives the browser")
CHROMIUM = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")
pytestmark = [
    pytest.mark.e2e,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on the PATH, nor a path in CHROMIUM"),
]

AXE = Path(os.environ.get("AXE_CORE") or Path(__file__).parents[2] / "node_modules/axe-core/axe.min.js")
KEY = "a-key-of-thirty-two-characters-x"
LIMITS = ServeSettings(max_k=20)
MATCHES = ("item é'3", "item é'5")
PATIENCE_MS = 15_000
DESKTOP = {"viewport": {"width": 1280, "height": 900}}
DARK = DESKTOP | {"color_scheme": "dark"}
PHONE = {"viewport": {"width": 390, "height": 844}, "has_touch": True, "is_mobile": True, "reduced_motion": "reduce"}

Open = Callable[..., Any]


class Site:
    """The API and what stands behind it."""

    def __init__(self, folder: Path) -> None:
        self.store = FeedbackStore(sqlite_url(folder / "feedback.sqlite3"))
        self.content = DrawingContent(MATCHES)
        logic = RecommenderLogic(Recommender.load(assembled_bundle(folder)), LIMITS)
        self.backend = LogicBackend(logic)

    def api(self, keys: tuple[bytes, ...] = ()) -> Any:
        return create_api(LIMITS, self.backend, Journal(self.store), keys, self.content)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    site = Site(tmp_path_factory.mktemp("page"))
    yield site
    site.store.close()


@pytest.fixture(scope="module")
def url(site: Site) -> Iterator[str]:
    with live(site.api()) as url:
        yield url


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with playwright.sync_playwright() as engine:
        browser = engine.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def open_page(browser: Any) -> Iterator[Open]:
    """Opens a page whose console, dialogs and requests are watched; faults fail the test at its end."""
    contexts, faults = [], list[str]()

    def opened(address: str, *, quiet: bool = True, **options: Any) -> Any:
        context = browser.new_context(**options)
        contexts.append(context)
        context.set_default_timeout(PATIENCE_MS)
        page = context.new_page()
        origin = address.split("?")[0].rstrip("/")
        page.on("pageerror", lambda error: faults.append(f"script: {error}"))
        page.on("dialog", lambda dialog: (faults.append(f"dialog: {dialog.message}"), dialog.dismiss()))
        page.on("request", lambda request: foreign(request.url, origin))
        if quiet:
            page.on("console", lambda line: faults.append(f"console: {line.text}") if line.type == "error" else None)
        page.goto(address)
        page.locator("[data-state=ready]").wait_for()
        return page

    def foreign(address: str, origin: str) -> None:
        if not address.startswith((origin, f"blob:{origin}")):
            faults.append(f"request to {address}")

    yield opened
    for context in contexts:
        context.close()
    assert not faults


def titles(page: Any) -> list[str]:
    return page.locator("#cards h3").all_text_contents()


def settled(page: Any, before: list[str] | None = None) -> list[str]:
    """The titles once the list is there, and another than ``before``."""
    page.wait_for_function(
        """before => {
            const titles = [...document.querySelectorAll("#cards h3")].map((one) => one.textContent);
            const busy = document.getElementById("shelf").getAttribute("aria-busy") === "true";
            return !busy && titles.length > 0 && titles.join() !== before?.join();
        }""",
        arg=before,
    )
    return titles(page)


def ask(page: Any, wish: str) -> None:
    field = page.get_by_label("Say what you are in the mood for")
    field.fill(wish)
    field.press("Enter")


def painted(page: Any) -> None:
    """Wait for the newest made picture."""
    page.wait_for_function("() => document.querySelector('#made-cards img')?.naturalWidth > 0")


def test_the_story_from_choosing_a_user_to_what_is_made(open_page: Open, url: str, site: Site) -> None:
    page = open_page(url, **DESKTOP)
    assert page.get_by_role("heading", name="Nobody is chosen yet").is_visible()

    field = page.get_by_role("combobox", name="User")
    field.focus()
    page.keyboard.type("u7")
    page.get_by_role("option").first.wait_for()
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowUp")
    page.keyboard.press("Enter")
    first = settled(page)
    assert len(first) == 12
    assert "user=u7" in page.url
    assert page.locator("#cards .reason").first.text_content()

    liked = page.locator("#cards .card").nth(0).get_attribute("data-item")
    page.locator("#cards .like").first.focus()
    page.keyboard.press("Enter")
    page.get_by_text(f"Liked “{first[0]}”").first.wait_for()  # the service has it; the list is asked for anew
    second = settled(page, first)
    assert first[0] not in second
    assert site.store.recent("u7") == (liked,)
    assert page.evaluate("document.activeElement.closest('.card') !== null"), "the keyboard lost its place"

    page.locator("#cards .skip").nth(1).click()
    page.get_by_text(f"Skipped “{second[1]}”").first.wait_for()
    third = settled(page, second)
    assert second[1] not in third
    page.get_by_text("Skipped this visit (1)").click()
    page.get_by_role("button", name=f"Allow {second[1]} again").click()
    assert second[1] in settled(page, third)

    why = page.locator("#cards .why").first
    why.click()
    page.get_by_role("heading", name="It leans on").wait_for()
    page.keyboard.press("Escape")
    assert why.evaluate("button => button === document.activeElement")

    ask(page, "Something calmer")
    page.get_by_role("heading", name="Found for your wish").wait_for()
    assert page.locator(".decision-headline strong").text_content() == "Retrieve"
    assert {page.locator("#cards .card").nth(i).get_attribute("data-item") for i in (0, 1)} == set(MATCHES)

    ask(page, "The same but as <img src=x onerror=alert(1)>")
    page.locator("#made-cards img").wait_for()
    painted(page)
    page.get_by_role("heading", name="Recommendations").wait_for()  # it was made, not found
    assert page.locator("#made-cards h3").text_content() == "The same but as <img src=x onerror=alert(1)>"
    assert page.locator(".ways [data-chosen]").get_attribute("data-action") == "edit"
    page.get_by_role("button", name="6 of 6 checks passed").click()
    page.get_by_text("drawing 1", exact=True).wait_for()
    page.get_by_text("a signed statement that a machine made it").wait_for()
    assert page.locator(".verdicts li").count() == 6
    page.get_by_role("button", name="Report this").click()
    page.get_by_text("Reported. Thank you.").wait_for()
    page.get_by_role("button", name="Close").click()

    ask(page, "make something forbidden")
    page.locator(".held-back").wait_for()
    assert "legality" in page.locator(".held-back").text_content()

    ask(page, "hm")
    page.get_by_text("What should it be about?").first.wait_for()
    picture = {"name": "hill.png", "mimeType": "image/png", "buffer": drawing(3)}
    page.locator("#wish-picture").set_input_files(picture)
    page.get_by_role("img", name="Your picture, hill.png").wait_for()
    ask(page, "make it like this")
    page.get_by_role("heading", name="Make it like this").wait_for()
    call = site.content.calls[-1]
    assert (call.turns[-1], call.picture.size) == ("hm", (64, 64))


def test_a_history_is_built_and_narrowed(open_page: Open, url: str, site: Site) -> None:
    page = open_page(url, **DESKTOP)
    page.get_by_text("A history", exact=True).click()
    field = page.get_by_role("combobox", name="Add an item")
    lists = []
    for words in ("robot part 3", "desert part 5"):
        field.fill(words)
        page.get_by_role("option", name=re.compile(words.replace(" ", ".*"), re.IGNORECASE)).first.click()
        lists.append(settled(page, lists[-1] if lists else None))
    assert page.locator(".trail li").count() == 2
    page.get_by_text("Narrow or vary").click()
    page.get_by_label("Words in the title").fill("winter")
    page.get_by_label("Variety").fill("0.5")
    page.get_by_role("button", name="Show", exact=True).click()
    assert all("Winter" in title for title in settled(page, lists[-1]))
    page.locator("#cards .like").first.click()
    page.locator(".trail li").nth(2).wait_for()
    guest = page.evaluate("sessionStorage.getItem('genrec.guest')")
    assert len(site.store.recent(guest)) == 1
    page.get_by_role("button", name="Model card").click()
    page.get_by_role("cell", name="0.500").wait_for()


def test_mistakes_say_what_to_do_and_a_wish_can_be_stopped(
    open_page: Open, url: str, site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = open_page(f"{url}/?user=nobody", quiet=False, **DESKTOP)
    alert = page.get_by_role("alert")
    alert.get_by_text("Pick another user").wait_for()
    alert.get_by_role("button", name="Dismiss").click()
    page.route("**/v1/recommendations", lambda route: route.abort())
    page.get_by_role("button", name="Start with any user").click()
    alert.get_by_text("The service does not answer.").wait_for()
    page.unroute("**/v1/recommendations")
    alert.get_by_role("button", name="Try again").click()
    assert len(settled(page)) == 12
    stopped = site.content.stopped
    monkeypatch.setattr(site.content, "step_s", 1.0)
    ask(page, "make a hill")
    page.get_by_role("progressbar").wait_for()
    page.get_by_role("button", name="Stop").click()
    page.get_by_text("Stopped. Nothing was made.").first.wait_for()
    for _ in range(100):
        if site.content.stopped > stopped:
            break
        page.wait_for_timeout(20)
    assert site.content.stopped == stopped + 1, "the work went on after the page had stopped it"


def test_a_service_with_keys_asks_for_one_and_the_tab_keeps_it(
    open_page: Open, site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PAGE_TEST_KEY", KEY)
    with live(site.api(load_digests(("env:PAGE_TEST_KEY",)))) as url:
        page = open_page(f"{url}/?user=u9", quiet=False, **DESKTOP)
        field = page.get_by_label("API key", exact=True)
        field.fill("wrong")
        field.press("Enter")
        page.get_by_text("does not know this key").wait_for()
        field.fill(KEY)
        field.press("Enter")
        assert len(settled(page)) == 12
        ask(page, "make a locked hill")
        painted(page)
        page.reload()
        assert len(settled(page)) == 12
        assert page.evaluate("localStorage.length") == 0


def test_a_phone_shows_all_without_sideways_scrolling_or_movement(open_page: Open, url: str) -> None:
    page = open_page(f"{url}/?user=u11", **PHONE)
    settled(page)
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert page.evaluate("document.getAnimations().length") == 0
    small = page.evaluate(
        """[...document.querySelectorAll("button, summary, input:not(.file):not([type=radio])")]
            .filter((one) => one.checkVisibility() && one.getBoundingClientRect().height < 24)
            .map((one) => one.outerHTML)"""
    )
    assert small == []
    page.get_by_role("button", name="Model card").tap()
    page.get_by_role("cell", name="0.500").wait_for()
    assert page.locator("#panel").evaluate("one => one.getBoundingClientRect().width <= innerWidth")


@pytest.mark.skipif(not AXE.is_file(), reason="axe-core is absent: npm pack axe-core, and its axe.min.js in AXE_CORE")
@pytest.mark.parametrize(
    "options", [DESKTOP, DESKTOP | {"color_scheme": "dark"}, PHONE], ids=["light", "dark", "phone"]
)
def test_axe_finds_nothing(open_page: Open, url: str, options: dict[str, Any]) -> None:
    page = open_page(url, bypass_csp=True, **options)
    page.add_script_tag(path=str(AXE))

    def faults() -> list[str]:
        page.wait_for_function("() => document.getAnimations().every((one) => one.playState !== 'running')")
        return page.evaluate(
            """async () => (await axe.run(document, {resultTypes: ["violations"]})).violations
                .flatMap((fault) => fault.nodes.map((node) => `${fault.id} (${fault.impact}): ${node.html}`))"""
        )

    assert faults() == []
    page.get_by_role("button", name="Start with any user").click()
    settled(page)
    ask(page, "make a hill for axe")
    painted(page)
    page.get_by_text("How this was decided").click()
    page.get_by_role("combobox", name="User").fill("u1")
    page.get_by_role("option").first.wait_for()
    assert faults() == []
    page.keyboard.press("Escape")
    page.locator("#made-cards .badge").click()
    page.get_by_text("drawing 1", exact=True).wait_for()
    assert faults() == []
