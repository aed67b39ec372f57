"""A drawing in the page keeps what draws, under ids of its own, and loses what could run or load."""

import re

import pytest

from maple.reporting.svg import inline

OPEN = (
    '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" width="10pt" height="9pt" '
    'viewBox="0 0 9 9">'
)


def inlined(content):
    return inline(f'<?xml version="1.0"?>{OPEN}{content}</svg>', "heat", 'A "label" & <more>')


def test_ids_and_what_refers_to_them_begin_with_the_name_of_the_figure():
    found = inlined(
        '<defs><clipPath id="p1"><rect width="1"/></clipPath><path id="m1" d="M 0 0"/></defs>'
        '<g clip-path="url(#p1)"><use xlink:href="#m1" style="fill: url(#p1)"/></g>'
    )
    assert re.findall('id="(.*?)"', found) == ["heat-p1", "heat-m1"]
    assert 'clip-path="url(#heat-p1)"' in found and 'href="#heat-m1"' in found and "fill: url(#heat-p1)" in found
    assert 'aria-label="A &quot;label&quot; &amp; &lt;more&gt;"' in found and 'role="img"' in found
    assert 'style="--width: 10"' in found and "height" not in found


def test_text_that_looks_like_markup_stays_text():
    found = inlined('<text>&lt;script&gt; id="x" url(#y) &amp;lt;</text>')
    assert '>&lt;script&gt; id="x" url(#y) &amp;lt;</text>' in found


@pytest.mark.parametrize(
    "content",
    [
        "<script>alert(1)</script>",
        '<foreignObject><p xmlns="http://www.w3.org/1999/xhtml">p</p></foreignObject>',
        '<a xlink:href="javascript:alert(1)"><text>t</text></a>',
        '<animate attributeName="href" to="javascript:alert(1)"/>',
        '<set attributeName="onload" to="alert(1)"/>',
        "<style>@import 'http://h/x.css';</style>",
        "<metadata><x/></metadata>",
        '<script xmlns="http://www.w3.org/1999/xhtml">alert(1)</script>',
    ],
)
def test_elements_that_do_not_draw_are_left_out(content):
    assert inlined(f"<g>{content}</g>").endswith("<g /></svg>")


@pytest.mark.parametrize(
    "attribute",
    [
        'onload="alert(1)"',
        'onclick="alert(1)"',
        'xlink:href="http://h/x.svg#a"',
        'href="javascript:alert(1)"',
        'href="data:image/svg+xml;base64,AAAA"',
        'style="fill: url(http://h/x)"',
        'fill="url(//h/x#a)"',
    ],
)
def test_attributes_that_run_or_load_are_left_out(attribute):
    assert "<use />" in inlined(f"<use {attribute}/>")


def test_the_pixels_of_a_heat_map_stay():
    image = 'href="data:image/png;base64,iVBORw0KGgo="'
    assert image in inlined(f"<image xlink:{image}/>")
