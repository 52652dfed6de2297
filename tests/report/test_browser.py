"""A page in a real browser: it opens, finds, opens modules, explains, sorts and prints."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from embedl_deploy import transform
from embedl_deploy.export import compare_files
from embedl_deploy.onnx_model import OnnxFile
from embedl_deploy.quantize import analyze, quantize
from embedl_deploy.report import report
from embedl_deploy.report.beside import Beside, Side
from embedl_deploy.tensorrt import check_onnx, explain_onnx

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), ""
)
pytest.importorskip("playwright", reason="the package playwright is not installed")
if not CHROMIUM:
    pytest.skip("no Chromium is installed", allow_module_level=True)

BLOCKS = 250
"""Of 12 operators each."""


def network(path: Path, blocks: int) -> Path:
    """Residual blocks in INT8, in stages of 50, with names by module."""
    weight = np.random.default_rng(0).integers(-127, 127, (16, 16, 1, 1), dtype=np.int8)
    constants = [(np.float32(0.05), "s"), (np.int8(0), "z"), (weight, "w")]
    nodes, value = [], "x"
    for block in range(blocks):
        where, start = f"stages.{block // 50}.{block % 50}", value
        for layer in ("conv1", "conv2"):
            for op, inputs in (
                ("QuantizeLinear", [value, "s", "z"]),
                ("DequantizeLinear", [f"{block}{layer}QuantizeLinear", "s", "z"]),
                ("DequantizeLinear_w", ["w", "s", "z"]),
                ("Conv", [f"{block}{layer}DequantizeLinear", f"{block}{layer}DequantizeLinear_w"]),
                ("Relu", [f"{block}{layer}Conv"]),
            ):
                output, name = f"{block}{layer}{op}", f"{where}.{layer}/{op}"
                nodes.append(helper.make_node(op.removesuffix("_w"), inputs, [output], name=name))
            value = f"{block}{layer}Relu"
        nodes.append(helper.make_node("Add", [value, start], [f"{block}a"], name=f"{where}/Add"))
        nodes.append(
            helper.make_node("Sigmoid", [f"{block}a"], [f"{block}g"], name=f"Gate_{block}")
        )
        value = f"{block}g"
    nodes.append(helper.make_node("Softmax", [value], ["y"], name="head/Softmax"))
    value = "y"
    ends = [
        helper.make_tensor_value_info(one, TensorProto.FLOAT, (1, 16, 8, 8)) for one in ("x", value)
    ]
    arrays = [numpy_helper.from_array(np.array(array), name) for array, name in constants]
    graph = helper.make_graph(nodes, "g", ends[:1], ends[1:], arrays)
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10), path
    )
    return path


def page_of(path: Path, blocks: int) -> Path:
    """A page with all that is known of such a network."""
    file = OnnxFile.open(network(path.with_suffix(".onnx"), blocks))
    return report(path, file=file, check=check_onnx(file), explanation=explain_onnx(file))


@pytest.fixture(scope="module")
def browser() -> "Iterator[Browser]":
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        made = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield made
        made.close()


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return page_of(tmp_path_factory.mktemp("small") / "page.html", 3)


@pytest.fixture
def page(browser: "Browser", small: Path) -> "Iterator[Page]":
    yield from opened(browser, small)


def opened(browser: "Browser", path: Path) -> "Iterator[Page]":
    """A page that is laid out, which says nothing on the console and asks no network."""
    page = browser.new_page(viewport={"width": 1280, "height": 900})
    said: list[str] = []
    page.on("console", lambda one: said.append(one.text))
    page.on("pageerror", lambda one: said.append(str(one)))
    page.on("request", lambda one: said.append(one.url) if one.url.startswith("http") else None)
    page.goto(path.as_uri())
    page.wait_for_selector("#graph[data-ready=yes]")
    yield page
    page.close()
    assert said == []


def test_search_opens_modules_and_chooses(page: "Page") -> None:
    page.click("#close-all")
    page.wait_for_function("document.querySelectorAll('.node').length < 10")
    page.fill("#search", "stages.0.1.conv2/conv")
    assert page.locator("#found li").count() == 1
    page.keyboard.press("Enter")
    page.wait_for_selector(".node.chosen")
    assert page.inner_text("#detail h3") == "stages.0.1.conv2/Conv"
    page.fill("#search", "no such thing")
    assert page.inner_text("#status") == "nothing found"


def test_a_click_tells_the_kernel_and_what_is_fused(page: "Page") -> None:
    page.click("[aria-label^='Conv stages.0.0.conv1']")
    said = page.inner_text("#detail")
    assert "convolution, INT8" in said
    assert "documented" in said
    assert "scale 0.05" in said
    page.click("#detail button:has-text('stages.0.0.conv1/Relu')")
    assert page.inner_text("#detail h3") == "stages.0.0.conv1/Relu"


def test_q_and_dq_are_one_box_and_types_have_colours(page: "Page") -> None:
    pairs = page.locator(".node.pair")
    assert pairs.count() == 6
    assert page.locator(".node:has-text('DequantizeLinear')").count() == 0
    assert page.locator(".node.t-INT8[aria-label^='Conv']").count() == 6
    assert page.locator(".node.t-FP32[aria-label^='Input']").count() == 1


def test_a_module_opens_and_closes_by_keyboard(page: "Page") -> None:
    page.click("#close-all")
    page.wait_for_function("document.querySelectorAll('.node.group').length > 0")
    before = page.locator(".node").count()
    page.locator(".node.group").first.focus()
    page.keyboard.press("Enter")
    page.keyboard.press("Enter")
    page.wait_for_function(f"document.querySelectorAll('.node').length > {before}")
    page.wait_for_function("document.activeElement.classList.contains('node')")
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Escape")
    page.wait_for_function(f"document.querySelectorAll('.node').length === {before}")


def test_a_finding_leads_to_its_node(page: "Page") -> None:
    link = page.locator("section button[data-node]:visible").first
    name = link.inner_text()
    link.click()
    page.wait_for_selector(".node.chosen")
    assert name in page.inner_text("#detail")


def test_tables_sort_by_number_and_by_text(page: "Page") -> None:
    table = page.locator("section:has(#kernels) table").first
    heads = table.locator("th")
    names = heads.all_inner_texts()

    def cells(name: str) -> list[str]:
        button = heads.nth(names.index(name)).locator("button")
        button.click()
        return table.locator(f"tbody td:nth-child({names.index(name) + 1})").all_inner_texts()

    counts = [int(one) for one in cells("Count")]
    assert counts == sorted(counts)
    assert len(set(counts)) > 1
    assert heads.nth(0).get_attribute("aria-sort") == "ascending"
    assert [int(one) for one in cells("Count")] == sorted(counts, reverse=True)
    kinds = cells("Kernel")
    assert kinds == sorted(kinds)


def test_a_place_in_the_chart_leads_to_its_layer(browser: "Browser", tmp_path: Path) -> None:
    torch.manual_seed(0)
    data = [torch.randn(2, 3, 8, 8)]
    result = transform(nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 1)), (data[0],))
    model = quantize(result, data)
    analysis = analyze(model, data)
    path = report(tmp_path / "page.html", model=model, analysis=analysis)
    for page in opened(browser, path):
        places = page.locator("#chart circle")
        assert places.count() == len(analysis.rows)
        order = [str(node.target) for node in model.graph.nodes if node.op == "call_module"]
        assert [one.get_attribute("data-node") for one in places.all()] == order
        places.nth(1).click()
        page.wait_for_selector(".node.chosen")
        assert page.inner_text("#detail h3") == order[1]
        row = next(one for one in analysis.rows if one.path == order[1])
        assert f"{row.sqnr_db:.1f} dB" in page.inner_text("#detail")


def test_every_control_has_a_name_and_colours_follow_the_system(page: "Page") -> None:
    unnamed = "[...document.querySelectorAll('button, input, [role=button], svg[role]')].filter("
    unnamed += "(one) => !(one.getAttribute('aria-label') || one.textContent.trim())).length"
    assert page.evaluate(unnamed) == 0
    assert page.locator(".node[tabindex='0']").count() == 1
    ground = "getComputedStyle(document.body).backgroundColor"
    light = page.evaluate(ground)
    page.emulate_media(color_scheme="dark")
    dark = page.evaluate(ground)
    page.emulate_media(media="print")
    assert (light, page.evaluate(ground)) == ("rgb(255, 255, 255)", "rgb(255, 255, 255)")
    assert dark != light
    assert page.pdf()[:5] == b"%PDF-"


def test_two_files_side_by_side(browser: "Browser", tmp_path: Path) -> None:
    file = network(tmp_path / "net.onnx", 2)
    side = Side.of(file, "11.x")
    beside = Beside((side, side), compare_files(file, file), None)
    for page in opened(browser, report(tmp_path / "page.html", file=file, beside=beside)):
        table = page.locator("section:has(#between) table").nth(1)
        head = table.locator("th").first.locator("button")
        head.click()
        names = table.locator("tbody td:first-child").all_inner_texts()
        assert names == sorted(names)
        assert len(names) == len(beside.found.layers)
        table.locator("button[data-node]", has_text="stages.0.1.conv2/Conv").click()
        page.wait_for_selector(".node.chosen")
        assert page.inner_text("#detail h3") == "stages.0.1.conv2/Conv"


def test_three_thousand_operators_open_at_once(browser: "Browser", tmp_path: Path) -> None:
    for page in opened(browser, page_of(tmp_path / "page.html", BLOCKS)):
        # 1.3 s where two cores are idle; the margin is for those that are not
        assert page.evaluate("performance.now()") < 15_000
        assert 10 < page.locator(".node").count() <= 100
        assert f"{12 * BLOCKS + 3} operators" in page.inner_text("#status")
        page.fill("#search", "stages.4.49.conv2/Conv")
        page.keyboard.press("Enter")
        page.wait_for_selector(".node.chosen")
        assert page.inner_text("#detail h3") == "stages.4.49.conv2/Conv"
