// Run inside the report by its browser test: opens what is closed, measures, tells the frame around.
const all = (selector) => [...document.querySelectorAll(selector)];
const size = (one) => [one.getBoundingClientRect().width, one.getBoundingClientRect().height];
const right = (one) => Math.round(one.getBoundingClientRect().right);
const mayScroll = (one) => one.closest(".scroll, figure label, .symbols");
const rows = () => all("tr[data-value]").filter((row) => row.offsetHeight);
const verdicts = () => rows().map((row) => row.dataset.value);

addEventListener("load", () => {
  all("details").forEach((part) => (part.open = true));
  const found = {
    width: innerWidth,
    content: document.documentElement.scrollWidth,
    tables: all("table").map(size),
    formulas: all("svg.maths").map(size),
    images: all("img").map((one) => [one.naturalWidth, ...size(one)]),
    boxes: all(".scroll").map(right),
    beyond: all("body *")
      .filter((one) => !mayScroll(one) && right(one) > innerWidth)
      .map((one) => one.outerHTML.slice(0, 99)),
    fetched: performance
      .getEntriesByType("resource")
      .map((one) => one.name)
      .filter((name) => !name.startsWith("data:")),
    verdicts: verdicts(),
  };
  all("label").find((label) => label.textContent.includes("fails")).click();
  found.filtered = verdicts();
  const [picture] = all("figure img");
  found.zoomed = [picture.offsetWidth];
  picture.closest("label").click();
  found.zoomed.push(picture.offsetWidth, document.documentElement.scrollWidth);
  parent.postMessage(found, "*");
});
