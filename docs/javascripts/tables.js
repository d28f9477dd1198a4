// A table or formula wider than the screen scrolls in a frame; the keyboard must reach it.
window.addEventListener("load", () => {
  document.querySelectorAll(".md-typeset__scrollwrap, div.arithmatex").forEach((frame) => {
    frame.tabIndex = 0;
    frame.role = "region";
    frame.ariaLabel = frame.className === "arithmatex" ? "Formula" : "Table";
  });
});
