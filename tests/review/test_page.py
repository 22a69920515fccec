"""The page in a browser: a part is looked at, corrected, taken back; by mouse, by keys and on a phone."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from selenium import webdriver
from selenium.common.exceptions import NoAlertPresentException, NoSuchElementException, StaleElementReferenceException
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.wait import WebDriverWait

from sage_jax.corrections.store import CorrectionStore
from tests.support.reviewed import HEIGHT, PHONE, WIDTH, add, chromium, page_at, severe, store_at

HOSTILE = '<img src=x onerror="window.hacked=1">\'</script><script>window.hacked=2</script>.png'


class Page:
    """A browser at the page."""

    def __init__(self, browser: webdriver.Chrome, address: str) -> None:
        self.browser, self.address = browser, address

    def open(self, page: str = "queue") -> None:
        self.browser.get("about:blank")
        self.browser.get(f"{self.address}/review#{page}")
        self.until(lambda: self.browser.execute_script("return document.documentElement.dataset.ready === 'yes'"))

    def until(self, condition: Callable[[], Any]) -> Any:
        redrawn = (NoSuchElementException, StaleElementReferenceException)
        return WebDriverWait(self.browser, 60, ignored_exceptions=redrawn).until(lambda _: condition())

    def find(self, selector: str) -> WebElement:
        return self.browser.find_element(By.CSS_SELECTOR, selector)

    def all(self, selector: str) -> list[WebElement]:
        return self.browser.find_elements(By.CSS_SELECTOR, selector)

    def texts(self, selector: str) -> list[str]:
        """Read in one go, for the page makes its lists anew."""
        script = "return [...document.querySelectorAll(arguments[0])].map(e => e.innerText)"
        return self.browser.execute_script(script, selector)

    def text(self, selector: str) -> str:
        return (self.texts(selector) or [""])[0]

    def width_of(self, selector: str) -> int:
        """Px of a picture that has been loaded; 0 before."""
        return self.browser.execute_script(f"return document.querySelector({json.dumps(selector)})?.naturalWidth ?? 0")

    def click(self, selector: str) -> None:
        self.browser.execute_script("arguments[0].click()", self.find(selector))

    def press(self, *keys: str) -> None:
        ActionChains(self.browser).send_keys(*keys).perform()

    def save(self, key: str = Keys.ENTER, *, name: str = "Ana") -> None:
        """Presses a key that says something, Enter with Ctrl; gives a name where the page asks for one."""
        chain = ActionChains(self.browser)
        held = chain.key_down(Keys.CONTROL) if key == Keys.ENTER else chain
        held.send_keys(key).key_up(Keys.CONTROL).perform()
        if self.browser.execute_script("return document.getElementById('who').open"):
            self.find("#who-name").send_keys(name, Keys.ENTER)

    def fits(self) -> bool:
        return self.browser.execute_script("return document.documentElement.scrollWidth <= window.innerWidth")


@pytest.fixture(scope="module")
def browser() -> Iterator[webdriver.Chrome]:
    with chromium() as found:
        yield found


@pytest.fixture
def store(tmp_path: Path) -> CorrectionStore:
    return store_at(tmp_path)


@pytest.fixture
def page(browser: webdriver.Chrome, store: CorrectionStore) -> Iterator[Page]:
    with page_at(store) as address:
        made = Page(browser, address)
        made.open()
        browser.execute_script("localStorage.clear()")
        made.open()
        yield made
        assert severe(browser) == []


def test_the_queue_begins_with_what_needs_a_look_and_its_order_can_be_chosen(page: Page) -> None:
    def names() -> list[str]:
        return page.texts("#list b")

    assert page.text("#pending") == "6" and names()[0] == "part 6.png"
    assert set(names()[1:3]) == {"part 3.png", "part 4.png"}
    page.click("#order input[value=score]")
    page.until(lambda: page.text("#item-name") == "part 5.png")
    assert names()[0] == "part 5.png" and page.text("#item-verdict") == "Defective"
    assert "scratch in the upper right" in page.text("#item-reason")
    for kind in ("part", "reference", "map"):
        page.until(lambda kind=kind: page.width_of(f".pane[data-kind={kind}] img:last-of-type"))


def test_right_wrong_box_sentence_history_and_undo(page: Page, store: CorrectionStore) -> None:
    page.click("#order input[value=score]")
    page.until(lambda: page.text("#item-name") == "part 5.png")
    page.save("r")
    page.until(lambda: page.text("#item-name") == "part 4.png")
    (entry,) = store.corrected()
    assert entry.correction is not None and entry.correction.who == "Ana"
    assert entry.correction.correction is not None and entry.correction.correction.right

    page.press("w")
    assert page.find("#truth input[value=good]").is_selected()
    page.click("#truth input[value=defective]")
    page.find("#kind").send_keys("burr")
    page.click("#place input[value=box]")
    stage = page.find(".pane[data-kind=part] .stage")
    size = stage.rect
    x, y = -size["width"] / 4, -size["height"] / 4
    ActionChains(page.browser).move_to_element_with_offset(stage, round(x), round(y)).click_and_hold().move_by_offset(
        round(size["width"] / 2), round(size["height"] / 2)
    ).release().perform()
    page.find("#sentence").send_keys("A burr at the edge.")
    page.save()
    page.until(lambda: page.text("#item-name") != "part 4.png")
    said = store.corrected()[0].correction
    assert said is not None and said.correction is not None and said.correction.box is not None
    assert (said.correction.kind, said.correction.sentence) == ("burr", "A burr at the edge.")
    box = said.correction.box
    for value, wanted in ((box.left, WIDTH / 4), (box.right, WIDTH * 3 / 4), (box.top, HEIGHT / 4)):
        assert abs(value - wanted) <= 2
    assert page.text("#pending") == "4"

    page.open("history")
    page.until(lambda: len(page.all("#history li")) == 2)
    first = page.text("#history li")
    assert all(part in first for part in ("part 4.png", "burr", "A burr at the edge.", "Ana"))
    page.click("#history li button:last-child")
    page.until(lambda: len(page.all("#history li")) == 3)
    assert "Taken back" in page.text("#history li") and page.all("#history .undone")
    assert len(store.corrected()) == 1


def test_the_last_word_is_taken_back_with_a_key(page: Page, store: CorrectionStore) -> None:
    page.click("#order input[value=score]")
    page.until(lambda: page.text("#item-name") == "part 5.png")
    page.save("r")
    page.until(lambda: page.text("#item-name") == "part 4.png")
    page.press("u")
    page.until(lambda: page.text("#item-name") == "part 5.png")
    assert store.corrected() == [] and "Undone" in page.text("#said")


def test_a_box_is_placed_by_keys_alone_and_keys_can_be_switched_off(page: Page, store: CorrectionStore) -> None:
    assert page.text("#right-button span") == "Good"
    page.press("d")
    page.click("#place input[value=box]")
    page.find(".pane[data-kind=part] .stage").send_keys(Keys.ARROW_RIGHT)
    stage = page.find(".pane[data-kind=part] .stage")
    stage.send_keys(Keys.ARROW_RIGHT)
    stage.send_keys(Keys.SHIFT + Keys.ARROW_DOWN)
    stage.send_keys(Keys.NULL)
    assert [page.find(f"#box-{each}").get_property("value") for each in ("left", "top", "width", "height")] == [
        "50",
        "32",
        "24",
        "18",
    ]
    page.save()
    page.until(lambda: len(store.corrected()) == 1)
    page.until(lambda: page.text("#item-name") != "part 6.png")
    page.press("?")
    page.click("#keys-on")
    page.press(Keys.ESCAPE)
    page.press("r")
    assert len(store.corrected()) == 1


def test_what_says_nothing_is_not_saved_and_the_form_says_so(page: Page, store: CorrectionStore) -> None:
    page.click("#order input[value=score]")
    page.until(lambda: page.text("#item-name") == "part 5.png")
    page.press("w")
    page.click("#truth input[value=defective]")
    page.click("#correct button[type=submit]")
    assert "what the model said" in page.text("#correct-fault") and store.corrected() == []


def test_zoom_moves_all_pictures_and_the_slider_cuts_between_two(page: Page) -> None:
    page.press("+")
    moved = [
        json.loads(each.value_of_css_property("transform")[6:].translate({40: 91, 41: 93}))
        for each in page.all(".layers")
    ]
    assert {scale for scale, *_ in moved} == {1.5} and page.text("#zoom-shown") == "150 %"
    assert max(left for *_, left, _ in moved) - min(left for *_, left, _ in moved) < 0.1 and moved[0][4] < -10
    page.press("0", "v")
    slider = page.find("#wipe-at")
    assert slider.is_displayed() and "50%" in page.find(".over").value_of_css_property("clip-path")
    slider.send_keys(Keys.HOME)
    assert "0%" in page.find(".over").value_of_css_property("clip-path")
    page.click("#against input[value=map]")
    assert len(page.all(".over img")) == 2


def test_the_threshold_slider_counts_at_once(page: Page, store: CorrectionStore) -> None:
    for entry in store.pending():
        if entry.name in ("part 1.png", "part 2.png"):
            store.correct(entry.id, "Ana", right=True)
        if entry.name == "part 3.png":
            store.correct(entry.id, "Ana", verdict="defective")
    page.open("threshold")
    assert "0.5 (in use)" in page.text("#count-threshold")
    assert page.text("#count-called") == "2 of 5"
    assert page.text("#count-escapes") == "1 of 1" and page.text("#count-alarms") == "0 of 2"
    slider = page.find("#threshold-at")
    slider.send_keys(Keys.HOME)
    page.until(lambda: page.text("#count-called") == "5 of 5")
    assert page.text("#count-escapes") == "0 of 1" and page.text("#count-alarms") == "2 of 2"
    slider.send_keys(Keys.END)
    page.until(lambda: page.text("#count-called") == "0 of 5")


def test_hostile_names_and_words_run_nothing(browser: webdriver.Chrome, tmp_path: Path) -> None:
    store = CorrectionStore(tmp_path / "store")
    number = add(store, 1, score=0.6, name=HOSTILE, category=HOSTILE, reason=HOSTILE, answers=((HOSTILE, HOSTILE),))
    store.correct(number, HOSTILE, verdict="defective", kind=HOSTILE, sentence=HOSTILE)
    store.correct(number, HOSTILE, verdict="good", sentence=HOSTILE)
    add(store, 2, score=0.6, name=HOSTILE, source=HOSTILE)
    hostile = {"versions": [{"number": 0, "active": True, "answering": True, "command": HOSTILE}], "note": HOSTILE}
    with page_at(store, versions=lambda: hostile) as address:
        page = Page(browser, address)
        for name in ("queue", f"queue/{number}", "history", "threshold", "versions"):
            page.open(name)
            assert page.browser.execute_script("return window.hacked") is None
            with pytest.raises(NoAlertPresentException):
                _ = page.browser.switch_to.alert.text
            assert page.all("img[src=x]") == [] and len(page.all("script")) == 1
        page.open("history")
        assert HOSTILE in page.text("#history")
    assert severe(browser) == []


@pytest.mark.parametrize("path", ["queue", "history", "threshold", "versions"])
def test_a_phone_scrolls_down_alone(phone: webdriver.Chrome, tmp_path: Path, path: str) -> None:
    store = store_at(tmp_path)
    add(store, 7, score=0.6, name="a_very_long_file_name_" * 8 + ".png", reason="Longwordwithoutaspace" * 20)
    store.correct(1, "Ana", verdict="defective", kind="burr" * 20, sentence="Longwordwithoutaspace" * 20)
    with page_at(store, versions=lambda: {"versions": VERSIONS, "note": ""}) as address:
        page = Page(phone, address)
        page.open(path)
        assert page.fits()
        if path != "queue":
            return
        page.open("queue/7")
        assert page.fits()
        page.click("#wrong-button")
        page.click("#truth input[value=defective]")
        page.click("#place input[value=cell]")
        assert page.fits()
        for button in page.all("#correct button, #actions button, nav a"):
            if button.is_displayed():
                assert button.size["height"] >= 44
    assert severe(phone) == []


@pytest.fixture(scope="module")
def phone() -> Iterator[webdriver.Chrome]:
    with chromium(PHONE, phone=True) as found:
        yield found


def test_a_service_with_a_key_asks_for_it_once(browser: webdriver.Chrome, store: CorrectionStore) -> None:
    with page_at(store, api_key="secret-key") as address:
        page = Page(browser, address)
        page.browser.get(f"{address}/review")
        page.until(lambda: page.find("#login").is_displayed())
        assert page.all("#list li") == []
        page.find("#login-key").send_keys("wrong", Keys.ENTER)
        page.until(lambda: page.text("#login-fault"))
        page.find("#login-key").send_keys(Keys.CONTROL + "a")
        page.find("#login-key").send_keys("secret-key", Keys.ENTER)
        page.until(lambda: len(page.all("#list li")) == 6)
        page.until(lambda: page.width_of(".pane[data-kind=part] img") == WIDTH)
        page.open("history")
        assert not page.find("#login").is_displayed()
        kept = json.dumps(page.browser.get_cookies()) + page.browser.execute_script(
            "return JSON.stringify(localStorage)"
        )
        assert "secret-key" not in kept
        page.click("#leave-button")
        page.until(lambda: page.find("#login").is_displayed())
    assert all("401" in line for line in severe(browser))


MEASURE = {"value": 0.7, "low": 0.6, "high": 0.8}
GAIN = {"value": 0.2, "low": 0.1, "high": 0.3}
VERSIONS: list[dict[str, Any]] = [
    {"number": 0, "active": False, "answering": True, "command": "sage-jax use RUN --version 0"},
    {
        "number": 1,
        "active": True,
        "answering": False,
        "command": "sage-jax use RUN --version 1",
        "time": 1.8e9,
        "from_version": 0,
        "offered": True,
        "why": "nothing fell beyond noise",
        "learnt": "learnt from 8 corrected images, measured on 2 held out",
        "measures": {"verdict": {"before": MEASURE, "after": {**MEASURE, "value": 0.9}, "gain": GAIN, "fell": False}},
    },
]


def test_versions_stand_side_by_side_with_the_one_that_answers(
    browser: webdriver.Chrome, store: CorrectionStore
) -> None:
    with page_at(store, versions=lambda: {"versions": VERSIONS, "note": "Start the service again."}) as address:
        page = Page(browser, address)
        page.open("versions")
        cards = page.until(lambda: page.texts("#versions article"))
        assert "Version 1" in cards[0] and "Active after a restart" in cards[0]
        assert "0.70" in cards[0] and "0.90" in cards[0] and "+0.20" in cards[0]
        assert "Version 0" in cards[1] and "Answers here" in cards[1]
        assert page.text("#versions-note") == "Start the service again."
    assert severe(browser) == []


def test_every_control_has_a_name_and_every_picture_a_text(page: Page) -> None:
    page.press("w")
    page.click("#truth input[value=defective]")
    page.click("#place input[value=box]")
    nameless = page.browser.execute_script("""
      const named = e => (e.getAttribute("aria-label") || e.labels?.[0]?.textContent || e.textContent || "").trim();
      return [...document.querySelectorAll("button, input, select, textarea, a")]
        .filter(e => !named(e) && !e.getAttribute("aria-hidden")).map(e => e.outerHTML);
    """)
    assert nameless == []
    assert page.browser.execute_script("return [...document.images].every(i => i.hasAttribute('alt'))")
    live = page.browser.execute_script("return [...document.querySelectorAll('[aria-live], [role=alert]')].length")
    assert live >= 4
