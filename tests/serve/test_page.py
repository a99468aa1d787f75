"""The page in a real browser, against the real application and a real model: what a person does, and what they see.

Each test also fails on a script error, on anything that the Content-Security-Policy stops, and on any request to
another server. A picture of the page is left in `$FOGTUNE_ARTEFACTS`, or in `.cache/artefacts`.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import pytest
from PIL import Image
from playwright.sync_api import Browser, ConsoleMessage, Locator, Page, Route, expect, sync_playwright
from playwright.sync_api import Request as Sent

from fogtune.platform.config import Config
from fogtune.platform.federation.local_runner import LocalRunner
from fogtune.platform.run import RunDirectory
from fogtune.platform.run.published import publish
from fogtune.serve.catalogue import Catalogue
from fogtune.serve.keys import Keys, new_key
from fogtune.serve.local import local_service
from fogtune.serve.registry import Registry
from fogtune.serve.rows import Outcome, Row
from fogtune.serve.service import Service
from fogtune.serve.settings import Settings
from fogtune.serve.static import PATHS
from fogtune.serve.web import create_app

MakeConfig = Callable[..., Config]

ROOT = Path(__file__).resolve().parents[2]
CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
FLAGS = [
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"),
    *("--disable-background-networking", "--disable-component-update"),
]
if CHROMIUM is None and not os.environ.get("CI"):
    pytest.skip("needs Chromium (apt-get install chromium)", allow_module_level=True)

FEDERATION = (
    'devices=[{"name": "camera", "count": 2, "modalities": ["text", "image"], "tasks": ["vqa"]}, '
    '{"name": "coach", "count": 2, "modalities": ["text", "imu"], "tasks": ["exercise", "topic"]}]',
    'sources.easy-vqa={"kind": "embedded", "asset": "easy-vqa", "held_out": {"split": "test", "limit": 60}, '
    '"partition": {"kind": "iid"}, "samples_per_device": 10}',
    'tasks.vqa={"source": "easy-vqa", "inputs": ["text", "image"], "label": "answer"}',
    'model.encoders.image={"kind": "image", "size_px": 64}',
    'federation.modules=[{"match": "head/topic", "scope": "fog"}]',
)

OUTLINE = """() => {
    const focused = document.activeElement;
    const seen = getComputedStyle(focused).opacity === "0" ? focused.closest(".drop, .task") : focused;
    return getComputedStyle(seen).outlineStyle;
}"""
"""The outline of what has the focus, or of what stands for it."""


Serve = Callable[..., AbstractContextManager[str]]


@pytest.fixture(scope="module")
def run(tiny: MakeConfig, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with versions 0 and 1, and 2, a file of which is damaged."""
    config = tiny(*FEDERATION)
    path = RunDirectory.create(config, tmp_path_factory.mktemp("runs")).path
    runner = LocalRunner(config)
    for number in (0, 1, 2):
        metrics = runner.round(number).record.tasks if number else {}
        publish(path, config, runner.setup, runner.snapshot(), metrics)
    runner.close()
    damaged = path / "modules/v2/cloud/head/vqa.safetensors"
    damaged.write_bytes(damaged.read_bytes()[:-1] + b"?")
    return path


@pytest.fixture(scope="module")
def service(run: Path) -> Service:
    """The run's heads."""
    return local_service(Settings(run=str(run)))


@pytest.fixture(scope="module")
def served(listening: Callable[..., AbstractContextManager[str]]) -> Serve:
    """Serves a service within a block; gives the page's address."""

    @contextmanager
    def serve(service: Service, keys: Keys | None = None) -> Iterator[str]:
        with listening(create_app(service, keys)) as url:
            yield f"{url}/"

    return serve


@pytest.fixture(scope="module")
def url(service: Service, served: Serve) -> Iterator[str]:
    """Of a service that asks for no key."""
    with served(service) as address:
        yield address


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """One for all tests."""
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield chromium
        chromium.close()


@pytest.fixture
def open_page(browser: Browser) -> Iterator[Callable[..., Page]]:
    """Opens the page in a context of its own."""
    complaints: list[str] = []
    contexts = []

    def said(line: ConsoleMessage) -> None:
        # A refused request is in the console, too: that the page handles it is what some tests are about.
        if "Failed to load resource" not in line.text:
            complaints.append(line.text)

    def opened(address: str, **options: Any) -> Page:
        def sent(request: Sent) -> None:
            if not request.url.startswith((address, "data:")):
                complaints.append(request.url)

        context = browser.new_context(**options)
        contexts.append(context)
        page = context.new_page()
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("console", said)
        page.on("request", sent)
        page.goto(address)
        return page

    yield opened
    for context in contexts:
        context.close()
    assert complaints == []


@pytest.fixture
def page(open_page: Callable[..., Page], url: str) -> Page:
    """The page, loaded."""
    page = open_page(url)
    expect(page.get_by_role("radio")).to_have_count(3)
    return page


def choose(page: Page, task: str) -> None:
    page.get_by_role("radio", name=task).check(force=True)
    expect(page.locator(".sample:visible")).to_have_count(8)


def predict(page: Page) -> None:
    page.get_by_role("button", name="Predict").click()


def ask(url: str, path: str, body: object = None) -> Any:
    """What the service answers to others than the page."""
    data = None if body is None else json.dumps(body).encode()
    with urlopen(Request(url + path, data, {"Content-Type": "application/json"})) as answer:
        return json.load(answer)


def facts(result: Locator) -> dict[str, str]:
    expect(result).to_be_visible()
    return dict(zip(result.locator("dt").all_inner_texts(), result.locator("dd").all_inner_texts(), strict=True))


def refused(page: Page, label: str) -> str:
    """The alert that a control is described by; the focus is on the control."""
    control = page.get_by_label(label, exact=True)
    expect(control).to_be_focused()
    expect(control).to_have_attribute("aria-invalid", "true")
    alert = page.locator(f"#{control.get_attribute('aria-errormessage')}")
    expect(alert).to_have_role("alert")
    return alert.inner_text()


def test_a_sample_is_predicted_as_the_service_predicts_it(page: Page, url: str) -> None:
    choose(page, "VQA")
    button = page.locator(".sample").nth(2)
    button.click()
    expect(button).to_have_attribute("aria-pressed", "true")
    expect(page.get_by_role("img", name="Preview of the image")).to_be_visible()
    predict(page)
    result = page.get_by_role("article")
    expect(result).to_have_count(1)

    sample = ask(url, "v1/tasks/vqa/samples")["samples"][2]
    (prediction,) = ask(url, "v1/tasks/vqa:predict", {"inputs": [sample["inputs"]]})["predictions"]
    assert result.get_by_role("heading").inner_text() == prediction["label"]
    verdict = "correct" if prediction["label"] == sample["label"] else "wrong"
    expect(result.locator(".truth")).to_have_text(f"True label: {sample['label']}{verdict}")
    shown = facts(result)
    assert (shown["Version"], shown["Variant"]) == ("v1", "global")
    assert re.fullmatch(r"\d+ ms", shown["Latency"])

    rows = result.get_by_role("row").all()[1:]
    best = sorted(prediction["scores"].values(), reverse=True)[:10]
    assert [row.get_by_role("cell").inner_text() for row in rows] == [f"{100 * score:.1f} %" for score in best]
    expect(rows[0].get_by_role("rowheader")).to_contain_text(prediction["label"])
    expect(page.get_by_role("status")).to_contain_text(f"Prediction: {prediction['label']}")


def test_once_a_sample_is_edited_its_label_is_not_known(page: Page) -> None:
    choose(page, "Topic")
    page.locator(".sample").first.click()
    page.get_by_label("Text", exact=True).press_sequentially("x")
    expect(page.locator(".sample[aria-pressed=true]")).to_have_count(0)
    predict(page)
    expect(page.get_by_role("article")).to_be_visible()
    expect(page.locator(".truth")).to_be_hidden()


def test_a_typed_text(page: Page, url: str) -> None:
    choose(page, "Topic")
    text = "The striker scored twice in the cup final"
    page.get_by_label("Text", exact=True).fill(text)
    predict(page)
    result = page.get_by_role("article")
    variant = facts(result)["Variant"]
    assert variant == ask(url, "v1/tasks/topic/variants")["variants"][0]
    (prediction,) = ask(url, f"v1/tasks/topic:predict?variant={variant}", {"inputs": [{"text": text}]})["predictions"]
    expect(result.get_by_role("heading")).to_have_text(prediction["label"])


def test_who_predicts_before_the_variants_are_known_asks_one_that_has_the_head(page: Page) -> None:
    held: list[Route] = []
    page.route("**/topic/variants?*", lambda route: held.append(route))
    choose(page, "Topic")
    page.locator(".sample").first.click()
    predict(page)
    expect(page.locator("#results")).to_have_attribute("aria-busy", "true")
    held.pop().continue_()
    assert facts(page.get_by_role("article"))["Variant"] == "fog:fog-0"


def test_an_image_is_chosen_and_removed(page: Page, tmp_path: Path) -> None:
    Image.new("RGB", (50, 40), "teal").save(tmp_path / "teal.jpg")
    choose(page, "VQA")
    page.get_by_label("Image", exact=True).set_input_files(tmp_path / "teal.jpg")
    preview = page.get_by_role("img", name="Preview of the image")
    expect(preview).to_be_visible()
    assert preview.evaluate("image => [image.naturalWidth, image.naturalHeight]") == [50, 40]
    predict(page)
    expect(page.get_by_role("article")).to_be_visible()
    page.get_by_role("button", name="Remove the image").click()
    expect(preview).to_have_count(0)
    predict(page)
    assert refused(page, "Text") == "give text or image"


def test_an_image_is_dropped(page: Page, tmp_path: Path) -> None:
    Image.new("RGB", (50, 40), "teal").save(tmp_path / "teal.png")
    choose(page, "VQA")
    box = page.locator(".drop").bounding_box()
    assert box
    session = page.context.new_cdp_session(page)
    for kind in ("dragEnter", "dragOver", "drop"):
        data = {"items": [], "files": [str(tmp_path / "teal.png")], "dragOperationsMask": 1}
        event = {"type": kind, "x": box["x"] + 9, "y": box["y"] + 9, "data": data}
        session.send("Input.dispatchDragEvent", event)
    expect(page.get_by_role("img", name="Preview of the image")).to_be_visible()


def test_a_file_that_is_no_image(page: Page, tmp_path: Path) -> None:
    (tmp_path / "notes.png").write_text("no image")
    choose(page, "VQA")
    page.get_by_label("Image", exact=True).set_input_files(tmp_path / "notes.png")
    expect(page.locator(".error:visible")).to_have_count(1)
    assert refused(page, "Image") == "notes.png is not an image that can be read"


def test_a_series_with_a_header(page: Page, tmp_path: Path, url: str) -> None:
    rows = [[0.5 * step, 1, 2, -3, 4e-3, 5] for step in range(30)]
    lines = ["ax, ay, az, gx, gy, gz", *(", ".join(map(str, row)) for row in rows)]
    (tmp_path / "walk.csv").write_text("\n".join(lines))
    choose(page, "Exercise")
    page.get_by_label("IMU", exact=True).set_input_files(tmp_path / "walk.csv")
    expect(page.get_by_role("img", name="6 channels, 30 steps, -3.00 to 14.5")).to_be_visible()
    predict(page)
    (prediction,) = ask(url, "v1/tasks/exercise:predict", {"inputs": [{"imu": rows}]})["predictions"]
    expect(page.get_by_role("article").get_by_role("heading")).to_have_text(prediction["label"])


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("1,2,3,4,5,6\n1,2,3\n", "line 2 has 3 columns; 6 are needed"),
        ("1,2,3,4,5,6\n\n1,2,3,4,much,6\n", "line 3: “much” is not a number"),
        ("a,b,c,d,e,f\n", "the file has no rows of numbers"),
    ],
)
def test_a_series_that_is_none(page: Page, tmp_path: Path, content: str, told: str) -> None:
    (tmp_path / "wrong.csv").write_text(content)
    choose(page, "Exercise")
    page.get_by_label("IMU", exact=True).set_input_files(tmp_path / "wrong.csv")
    expect(page.locator(".error:visible")).to_have_text(told)
    assert refused(page, "IMU") == told
    predict(page)
    expect(page.locator(".error:visible")).to_have_text(told)
    expect(page.get_by_role("article")).to_have_count(0)


def test_two_models_are_compared(page: Page, url: str) -> None:
    choose(page, "Topic")
    variants = [name for name in ask(url, "v1/tasks/topic/variants")["variants"] if name.startswith("fog:")]
    samples = ask(url, "v1/tasks/topic/samples")["samples"]
    page.get_by_label("Variant", exact=True).fill(variants[0])
    page.get_by_label("Compare with a second model").check()
    page.get_by_label("Second variant").fill(variants[1])
    page.get_by_label("Second version").select_option("v0")
    verdicts = set()
    for number, sample in enumerate(samples):
        page.locator(".sample").nth(number).click()
        with page.expect_response(lambda answer: "version=0" in answer.url):
            predict(page)
        expect(page.locator("#results")).not_to_have_attribute("aria-busy", "true")
        said = [
            ask(url, f"v1/tasks/topic:predict?{query}", {"inputs": [sample["inputs"]]})["predictions"][0]["label"]
            for query in (f"variant={variants[0]}", f"variant={variants[1]}&version=0")
        ]
        differ = said[0] != said[1]
        verdicts.add(differ)
        mark = "differs" if differ else ""
        expect(page.get_by_role("article").get_by_role("heading")).to_have_text([label + mark for label in said])
        expect(page.locator("#verdict")).to_contain_text("disagree" if differ else "agree")
        assert [facts(result)["Version"] for result in page.get_by_role("article").all()] == ["v1", "v0"]
    assert True in verdicts


def test_a_variant_that_is_none_is_told_at_its_field_and_shown_as_text(page: Page) -> None:
    choose(page, "Topic")
    page.get_by_label("Text", exact=True).fill("anything")
    page.get_by_label("Compare with a second model").check()
    page.get_by_label("Second variant").fill("<img src=x onerror=alert(1)>")
    predict(page)
    expect(page.locator(".error:visible")).to_have_count(1)
    told = refused(page, "Second variant")
    assert "<img src=x" in told
    assert "\n" not in told
    expect(page.get_by_role("article")).to_have_count(0)
    page.get_by_label("Second variant").fill("")
    predict(page)
    expect(page.get_by_role("article")).to_have_count(2)
    expect(page.locator(".error:visible")).to_have_count(0)


def test_the_keyboard_is_enough(page: Page) -> None:
    page.keyboard.press("Tab")
    expect(page.get_by_role("link", name="API")).to_be_focused()
    page.keyboard.press("Tab")
    page.keyboard.press("Tab")
    expect(page.get_by_role("radio", name="Exercise")).to_be_focused()
    page.keyboard.press("ArrowRight")
    expect(page.get_by_role("radio", name="Topic")).to_be_checked()
    page.keyboard.press("ArrowLeft")
    expect(page.get_by_role("radio", name="Exercise")).to_be_checked()
    expect(page.locator(".sample:visible")).to_have_count(8)
    page.keyboard.press("Tab")
    expect(page.locator(".sample").first).to_be_focused()
    page.keyboard.press("Space")
    seen = []
    for _ in range(20):
        page.keyboard.press("Tab")
        seen.append(page.evaluate("document.activeElement.id || document.activeElement.type"))
        assert page.evaluate(OUTLINE) == "solid", seen
        if seen[-1] == "predict":
            break
    assert [name for name in seen if name != "button"] == ["input-imu", "variant", "version", "compare", "predict"]
    page.keyboard.press("Shift+Tab")
    page.keyboard.press("Control+Enter")
    expect(page.get_by_role("article")).to_be_visible()


def test_every_control_has_a_name(page: Page) -> None:
    for task in ("VQA", "Exercise", "Topic"):
        choose(page, task)
        page.get_by_label("Compare with a second model").check()
        for control in page.locator("input:visible, textarea:visible, select:visible, button:visible").all():
            expect(control).to_have_accessible_name(re.compile(r"\w"))


def test_versions_are_told(page: Page) -> None:
    items = page.get_by_role("list", name="Versions").get_by_role("listitem")
    expect(items).to_have_count(3)  # they come after the page
    shown = items.all_inner_texts()
    assert shown[:2] == ["v1 stable", "v0 ready"]
    assert re.fullmatch(r"v2 refused .*vqa.safetensors: the file does not match the sha256 in manifest.json", shown[2])


def test_a_key_is_asked_for_and_kept_for_this_tab_alone(
    open_page: Callable[..., Page], service: Service, tmp_path: Path, served: Serve
) -> None:
    key = new_key(tmp_path / "keys.yaml", "visitor")
    with served(service, Keys.load(tmp_path / "keys.yaml")) as address:
        page = open_page(address)
        field = page.get_by_label("API key")
        expect(field).to_be_focused()
        field.fill("fogtune_guessed")
        field.press("Enter")
        expect(page.locator(".error:visible")).to_have_text("no such API key")
        assert refused(page, "API key") == "no such API key"
        field.fill(key)
        page.get_by_role("button", name="Use key").click()
        choose(page, "Topic")
        expect(field).to_be_hidden()
        page.locator(".sample").first.click()
        predict(page)
        expect(page.get_by_role("article")).to_be_visible()
        assert key in page.evaluate("JSON.stringify(sessionStorage)")
        assert page.evaluate("localStorage.length + document.cookie.length") == 0


def test_a_service_that_is_gone(page: Page, open_page: Callable[..., Page], service: Service, served: Serve) -> None:
    with served(service) as address:
        page = open_page(address)
        choose(page, "Topic")
        page.locator(".sample").first.click()
    predict(page)
    expect(page.locator(".error:visible")).to_have_text("the service cannot be reached; is it still running?")
    expect(page.get_by_role("button", name="Predict")).to_be_focused()


def test_a_run_that_has_published_nothing_yet(
    open_page: Callable[..., Page], run: Path, tmp_path: Path, served: Serve
) -> None:
    young = tmp_path / "young"
    shutil.copytree(run, young, ignore=shutil.ignore_patterns("modules"))
    catalogue = Catalogue(Registry(young))

    async def nothing(rows: Sequence[Row]) -> list[Outcome]:
        raise AssertionError(rows)

    with served(Service(catalogue, Settings(run=str(young)), nothing)) as address:
        page = open_page(address)
        again = page.get_by_role("button", name="Try again")
        expect(again).to_be_focused()
        expect(page.locator(".error:visible")).to_have_text("the run has published no version that can be served yet")
        shutil.copytree(run / "modules", young / "modules")
        catalogue.refresh()
        again.click()
        expect(page.get_by_role("radio")).to_have_count(3)
        expect(again).to_be_hidden()


@pytest.mark.parametrize("width_px", [360, 1180])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_fits(open_page: Callable[..., Page], url: str, width_px: int, scheme: str) -> None:
    """Nothing is wider than the window, on a narrow one results are below the form; and there is a picture to see."""
    viewport = {"width": width_px, "height": 900}
    page = open_page(url, viewport=viewport, color_scheme=scheme, reduced_motion="reduce")
    choose(page, "VQA")
    page.locator(".sample").nth(4).click()
    page.get_by_label("Compare with a second model").check()
    page.get_by_label("Second version").select_option("v0")
    predict(page)
    expect(page.get_by_role("article")).to_have_count(2)
    assert page.evaluate("document.documentElement.scrollWidth") == width_px
    form, results = (page.get_by_role("region", name=name).bounding_box() for name in ("Input", "Prediction"))
    assert form
    assert results
    assert (results["x"] > form["x"]) == (width_px > 800)
    assert page.evaluate("getComputedStyle(document.querySelector('.results')).transitionProperty") == "none"
    artefacts = Path(os.environ.get("FOGTUNE_ARTEFACTS") or ROOT / ".cache/artefacts")
    picture = artefacts / ("page.png" if (width_px, scheme) == (1180, "light") else f"page-{scheme}-{width_px}px.png")
    page.evaluate("window.scrollTo(0, 0)")
    page.screenshot(path=picture, full_page=True)
    with Image.open(picture) as image:
        corner = image.convert("L").getpixel((1, 1))
    assert isinstance(corner, int)
    assert (corner < 128) == (scheme == "dark")


def test_files_are_sent_again_only_when_they_have_changed(url: str) -> None:
    for path in PATHS:
        with urlopen(url + path[1:]) as answer:
            assert answer.read() == PATHS[path].read_bytes()
            tag = answer.headers["ETag"]
        with pytest.raises(HTTPError) as unchanged:
            urlopen(Request(url + path[1:], headers={"If-None-Match": tag}))
        unchanged.value.close()
        assert unchanged.value.code == 304
        with urlopen(Request(url + path[1:], headers={"If-None-Match": '"older"'})) as answer:
            assert answer.status == 200


def test_samples_of_no_task(url: str) -> None:
    with pytest.raises(HTTPError) as missing:
        ask(url, "v1/tasks/nonsense/samples")
    with missing.value as error:
        assert error.code == 404
        assert error.headers["Content-Type"] == "application/problem+json"


def test_the_schema_has_the_samples_and_not_the_page(url: str) -> None:
    paths = ask(url, "openapi.json")["paths"]
    assert "/v1/tasks/{task}/samples" in paths
    assert not paths.keys() & PATHS.keys()
