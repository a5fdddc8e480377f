() => {
  // Gradio's labels ("Thumbnail 1 of 12") hide the text of these elements from screen readers and voice control.
  const labeled = ":is(.thumbnail-item, .upload-container, .empty)[aria-label]";
  const unlabel = () => document.querySelectorAll(labeled).forEach((one) => one.removeAttribute("aria-label"));
  new MutationObserver(unlabel).observe(document.body, { subtree: true, childList: true, attributeFilter: ["aria-label"] });
  unlabel();
}
