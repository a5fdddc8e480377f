// A table that scrolls sideways must scroll by keyboard, too: mkdocs-material wraps tables, and does not make them focusable.
document$.subscribe(() => {
  for (const table of document.querySelectorAll(".md-typeset__scrollwrap")) table.tabIndex = 0;
});
