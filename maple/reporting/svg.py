"""A drawing inside the page: an SVG that matplotlib wrote, as a part of HTML.

What is kept is what draws. Matplotlib escapes the names in its labels, so this finds nothing to remove today; a label
that once came through as markup would lose what could run, load or restyle the page.
"""

from __future__ import annotations

import re
from xml.etree import ElementTree

from markupsafe import Markup

SVG = "{http://www.w3.org/2000/svg}"
DRAWING = {
    f"{SVG}{name}"
    for name in (
        *("svg", "g", "defs", "path", "use", "text", "tspan", "rect", "circle", "ellipse", "line", "polyline"),
        *("polygon", "clipPath", "image", "linearGradient", "radialGradient", "stop", "pattern"),
    )
}
REFERENCE = re.compile(r"url\(#([\w-]+)\)")


def inline(svg: str, name: str, label: str) -> Markup:
    """The <svg> element with its own ids, which share one page with those of other drawings, and a label to read out.

    name    begins each of its ids
    """
    root = ElementTree.fromstring(svg)
    _keep_drawing(root)
    for element in root.iter():
        for attribute, value in list(element.attrib.items()):
            if not _draws(attribute, value):
                del element.attrib[attribute]
            elif attribute == "id":
                element.set(attribute, f"{name}-{value}")
            elif attribute.endswith("href"):
                del element.attrib[attribute]
                element.set("href", f"#{name}-{value[1:]}" if value.startswith("#") else value)
            else:
                element.set(attribute, REFERENCE.sub(rf"url(#{name}-\1)", value))
        element.tag = element.tag.removeprefix(SVG)  # HTML knows the names without their namespace
    width = root.attrib.pop("width").removesuffix("pt")
    del root.attrib["height"]  # the page's style sheet scales it, from its width
    root.attrib |= {"style": f"--width: {width}", "role": "img", "aria-label": label}
    return Markup(ElementTree.tostring(root, encoding="unicode"))


def _keep_drawing(element: ElementTree.Element) -> None:
    """Remove metadata, style sheets (the page's own has what they say) and all else that does not draw."""
    for child in list(element):
        if child.tag in DRAWING:
            _keep_drawing(child)
        else:
            element.remove(child)


def _draws(attribute: str, value: str) -> bool:
    if attribute.startswith("on"):
        return False
    if attribute.endswith("href"):
        return value.startswith(("#", "data:image/png;base64,"))
    return "url(" not in REFERENCE.sub("", value)
