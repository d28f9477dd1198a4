// A table wider than the screen scrolls in a frame that the theme makes; the keyboard must reach it.
window.addEventListener("load", () => {
  document.querySelectorAll(".md-typeset__scrollwrap").forEach((frame) => {
    frame.tabIndex = 0;
    frame.role = "region";
    frame.ariaLabel = "Table";
  });
});
