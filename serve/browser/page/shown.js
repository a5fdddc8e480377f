// How the page shows a model and its answers. Text from cards is set as text, never as markup.

const NOT_SURE = "Not sure: unlike the training photos";

/** Show the classes of a photo, best first, and the times; null: there is no answer. */
export function answer(place, predictions, times) {
  if (!predictions) {
    place.replaceChildren(made("p", { className: "soft", textContent: "No answer." }));
    return;
  }
  const bars = predictions.map(({ label, score }) => {
    const bar = made("i");
    bar.style.width = `${score * 100}%`;
    const track = made("span", { className: "track" }, bar);
    return made("li", {}, made("span", { textContent: label }), made("span", { textContent: percent(score) }), track);
  });
  const { median, runs, preprocessMs } = times;
  const took = `${median.toFixed(1)} ms (median of ${runs} runs); decoding, resizing and cropping ${preprocessMs.toFixed(0)} ms`;
  place.replaceChildren(
    made("p", { className: "best", textContent: predictions.unsure ? NOT_SURE : predictions[0].label }),
    made("ol", {}, ...bars),
    made("p", { className: "times", textContent: took }),
  );
}

/** A choice among a card's heads, the default one first; hidden if there is only one. */
export function headChoice(place, { heads, default_head }, onChoice) {
  const sorted = [...heads].sort((a, b) => (b.name === default_head) - (a.name === default_head));
  const choices = sorted.map(({ name, labels }, at) => {
    const input = made("input", { type: "radio", name: "head", value: name, checked: at === 0 });
    input.addEventListener("change", () => onChoice(name));
    return made("label", {}, input, ` ${name} (${labels.length})`);
  });
  place.replaceChildren(place.querySelector("legend"), ...choices);
  place.hidden = heads.length < 2;
}

/** Show which file runs, whether it is the published one, and whether its outputs are right. */
export function facts(place, model, { ok, difference, tolerance }) {
  const { card, artifact, engine, checked } = model;
  const { numThreads } = engine.ort.env.wasm;
  const digest = checked
    ? `${artifact.sha256}, checked`
    : `${artifact.sha256}, NOT checked: browsers compute digests only on https and localhost`;
  const golden = ok
    ? `As published: the largest difference is ${difference.toFixed(4)} (limit: ${tolerance})`
    : `NOT as published: an output differs by ${difference.toFixed(4)} (limit: ${tolerance}). Try another browser`;
  const rows = [
    ["Model", `${card.id}, revision ${card.revision}: ${card.description}`],
    ["File", `${artifact.file}, ${artifact.precision}, ${(artifact.bytes / 1e6).toFixed(1)} MB`],
    ["sha256", digest, !checked],
    ["Golden outputs", golden, !ok],
    ["Runtime", `onnxruntime-web ${engine.version} (license: MIT), WebAssembly on the CPU, ${numThreads} thread${numThreads === 1 ? "" : "s"}`],
    ["License of the weights", card.licences.weights],
  ];
  place.replaceChildren(
    ...rows.map(([name, value, bad]) =>
      made("div", {}, made("dt", { textContent: name }), made("dd", { textContent: value, className: bad ? "bad" : "" })),
    ),
  );
}

const percent = (share) => `${(share * 100).toFixed(1)} %`;

function made(tag, properties = {}, ...children) {
  const element = Object.assign(document.createElement(tag), properties);
  element.append(...children);
  return element;
}
