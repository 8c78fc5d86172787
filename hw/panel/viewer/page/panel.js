"use strict";
// The device's screen follows /events; its buttons and the keyboard go to
// /button, one request for each press and each release, in order.

const screen = document.getElementById("screen");
const linkText = document.getElementById("link");
let shown = 0;

function show(state) {
  document.body.classList.toggle("off", !state.connected);
  linkText.textContent = state.connected ? `connected, ${state.width}×${state.height}` : "waiting for the device";
  if (state.version === 0 || state.version === shown) return;
  shown = state.version;
  // Whole multiples keep every pixel square and sharp.
  const scale = Math.max(1, Math.floor(480 / Math.max(state.width, state.height)));
  const next = new Image();
  next.onload = () => {
    if (shown !== state.version) return;
    screen.src = next.src;
    screen.width = state.width * scale;
    screen.height = state.height * scale;
    screen.hidden = false;
  };
  next.src = `screen.png?v=${state.version}`;
}

const events = new EventSource("events");
events.onmessage = (e) => show(JSON.parse(e.data));
events.onerror = () => {
  document.body.classList.add("off");
  linkText.textContent = "the emulator has ended";
  shown = 0; // a new run counts from the start
};

let queue = Promise.resolve();
const held = new Set();

function set(name, pressed) {
  if (held.has(name) === pressed) return;
  pressed ? held.add(name) : held.delete(name);
  document.querySelector(`[data-button=${name}]`).classList.toggle("down", pressed);
  queue = queue.then(() => fetch("button", { method: "POST", body: JSON.stringify({ button: name, pressed }) })).catch(() => {});
}

for (const b of document.querySelectorAll("[data-button]")) {
  const name = b.dataset.button;
  b.addEventListener("pointerdown", (e) => { b.setPointerCapture(e.pointerId); set(name, true); });
  b.addEventListener("pointerup", () => set(name, false));
  b.addEventListener("pointercancel", () => set(name, false));
  b.addEventListener("contextmenu", (e) => e.preventDefault());
}

const keys = { ArrowUp: "UP", ArrowDown: "DOWN", ArrowLeft: "LEFT", ArrowRight: "RIGHT", Enter: "PRESS", 1: "KEY1", 2: "KEY2", 3: "KEY3" };
addEventListener("keydown", (e) => {
  const name = keys[e.key];
  if (!name || e.ctrlKey || e.metaKey || e.altKey) return;
  e.preventDefault();
  set(name, true);
});
addEventListener("keyup", (e) => { if (keys[e.key]) set(keys[e.key], false); });
addEventListener("blur", () => { for (const name of [...held]) set(name, false); });
