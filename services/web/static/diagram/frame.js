// Draws one diagram for the page around this frame, which sends its code and gets the drawing's height, or why there is none.
// The frame has an origin of its own that nothing belongs to, and a policy that lets nothing out: what the library makes of a
// model's code stays in here.

"use strict";

const drawing = document.getElementById("drawing");
const isDark = matchMedia("(prefers-color-scheme: dark)").matches;
const SMALLEST = 0.6;
const say = (message) => parent.postMessage(message, "*");

async function draw(code) {
  mermaid.initialize({
    startOnLoad: false, securityLevel: "strict", suppressErrorRendering: true, theme: isDark ? "dark" : "default",
    fontFamily: "system-ui, sans-serif", maxTextSize: 20_000, maxEdges: 300,
  });
  try {
    const { svg } = await mermaid.render("diagram", code);
    drawing.innerHTML = svg;
    // A link would replace the drawing.
    for (const link of drawing.querySelectorAll("a")) ["href", "xlink:href"].forEach((name) => link.removeAttribute(name));
    // It may shrink, but not until nobody can read it: then it is scrolled.
    const { style } = drawing.firstElementChild;
    style.minWidth = `${SMALLEST * (parseFloat(style.maxWidth) || 0)}px`;
    const tell = () => say({ height: Math.ceil(document.body.getBoundingClientRect().height) });
    // A frame that is out of sight observes nothing.
    tell();
    new ResizeObserver(tell).observe(document.body);
  } catch (error) {
    say({ error: String(error?.message ?? error).split("\n")[0].replace(/:$/, ".") });
  }
}

addEventListener("message", ({ source, data }) => {
  if (source === parent && typeof data?.code === "string") draw(data.code);
}, { once: true });
say({ isReady: true });
