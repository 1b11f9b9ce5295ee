"use strict";
// The labelling page: shows two clips side by side, looped in step, and sends the answers. No library.

const REST_MINUTES = 15; // of answering without a break, after which the page suggests one
const BREAK_SECONDS = 60; // without an answer, which count as a break
const GUARD = 250; // milliseconds after a pair appears in which an answer is taken for a key pressed twice
const RETRY = 400; // milliseconds between two looks whether clips are ready
const AHEAD = 3; // questions whose clips are loaded, if they are drawn, while the first one is shown
const KEYS = { ArrowLeft: "left", ArrowRight: "right", ArrowDown: "tie", s: "skip", z: "undo", " ": "replay" };

const at = (id) => document.getElementById(id);
const stage = at("stage");

/* ------------------------------------------------------------------------------------------------------------ pairs */

async function loadClip(id) {
  const reply = await fetch("/clip/" + id);
  if (!reply.ok) throw new Error((await reply.text()).trim());
  const video = document.createElement("video");
  Object.assign(video, { muted: true, playsInline: true, preload: "auto", disablePictureInPicture: true });
  video.src = URL.createObjectURL(await reply.blob());
  await new Promise((resolve, reject) => {
    video.oncanplaythrough = resolve;
    video.onerror = () => reject(new Error("this browser cannot play H.264 mp4"));
    video.load();
  });
  return video;
}

/* Loads both clips of a question completely; `element` is hidden until it is shown. */
async function loadPair(question) {
  const videos = await Promise.all([loadClip(question.left), loadClip(question.right)]);
  const element = document.createElement("div");
  element.className = "pair";
  element.append(...videos);
  stage.append(element);
  const pair = { question, element, videos };
  for (const video of videos) {
    video.onended = () => {
      if (videos.every((v) => v.ended)) play(pair); // the shorter one waits, so that both begin together
    };
  }
  return pair;
}

function play(pair) {
  for (const video of pair.videos) {
    video.currentTime = 0;
    video.play().catch(() => {}); // interrupted, because the next pair is shown
  }
}

function remove(pair) {
  for (const video of pair.videos) {
    video.pause();
    URL.revokeObjectURL(video.src);
  }
  pair.element.remove();
}

/* -------------------------------------------------------------------------------------------------------- labelling */

const loading = new Map(); // promises of pairs by the id of their question
let state = { questions: [] };
let shown = null; // the pair that is shown
let busy = false; // an answer is being stored
let since = 0; // when the pair was shown, without the time in which the page was hidden
let hiddenAt = 0;
let looking = 0; // the timer of the next look for questions
let begun = 0; // when the present stretch of answers began, and its last answer
let last = 0;

async function request(path, body) {
  const headers = { "x-annotator": document.body.dataset.annotator };
  const options = body === undefined ? { headers } : {
    method: "POST", headers: { ...headers, "content-type": "application/json" }, body: JSON.stringify(body),
  };
  const reply = await fetch(path, options);
  if (!reply.ok && reply.status !== 409) throw new Error((await reply.text()).trim());
  return reply.json();
}

function say(text) {
  at("message").textContent = text;
  at("message").hidden = !text;
}

function preload() {
  const wanted = new Set(state.questions.map((q) => q.id));
  for (const question of state.questions) {
    if (loading.has(question.id)) continue;
    const promise = loadPair(question);
    loading.set(question.id, promise);
    promise.catch(() => loading.get(question.id) === promise && loading.delete(question.id)); // the next look tries again
  }
  for (const [id, promise] of loading) {
    if (!wanted.has(id) && id !== shown?.question.id) {
      loading.delete(id);
      promise.then(remove, () => {});
    }
  }
}

function describeProgress() {
  at("done").style.width = (100 * state.done) / Math.max(1, state.total) + "%";
  const minutes = state.minutes_left;
  const left = minutes < 1 ? "less than a minute" : `about ${Math.round(minutes)} min`;
  at("progress").textContent = state.total > state.done ? `${state.done} of ${state.total}, ${left} left`
    : `${state.done} answers`;
  document.querySelector("[data-choice=undo]").disabled = !state.undo;
}

function describeWaiting() {
  if (state.finished) return `Finished: all ${state.done} answers are stored. Thank you. Z takes the last one back.`;
  if (state.faults.length) return "Some clips cannot be drawn: " + state.faults[0];
  if (state.running) return "The run is training; its next questions will appear here.";
  return "Drawing the next clips.";
}

/* Shows the first question of the state, as soon as both of its clips are loaded. */
async function show() {
  preload();
  describeProgress();
  lookAhead();
  const first = state.questions[0];
  if (!first) {
    if (shown) hide();
    say(describeWaiting());
    at("buttons").hidden = !state.undo;
    if (!state.finished) setTimeout(refresh, RETRY);
    return;
  }
  if (shown?.question.id === first.id) return;
  const pair = await loading.get(first.id);
  if (state.questions[0]?.id !== first.id) return;
  hide();
  shown = pair;
  pair.element.classList.add("shown");
  play(pair);
  say("");
  at("buttons").hidden = false;
  since = performance.now();
  stage.dataset.question = first.id;
}

/* Looks again for questions beyond the first while it is shown, if too few of them were drawn before. */
function lookAhead() {
  clearTimeout(looking);
  const more = state.questions.length < Math.min(AHEAD, state.total - state.done);
  if (more && state.questions.length) looking = setTimeout(receiveMore, RETRY);
}

async function receiveMore() {
  const asked = state;
  try {
    const found = await request("/api/state");
    if (busy || state !== asked) return; // an answer was given meanwhile, which brings a newer state
    state = found;
    await show();
  } catch {
    lookAhead(); // an answer that fails says so
  }
}

function hide() {
  if (!shown) return;
  const old = shown;
  shown = null;
  old.element.classList.remove("shown");
  delete stage.dataset.question;
  for (const video of old.videos) {
    video.pause();
    video.classList.remove("chosen");
  }
  if (!state.questions.some((q) => q.id === old.question.id)) {
    loading.delete(old.question.id);
    remove(old);
  }
}

async function update(promise) {
  busy = true;
  try {
    state = await promise;
    await show();
  } catch (error) {
    const lost = error instanceof TypeError; // what fetch throws without a reply
    say(lost ? "No connection to the page's program. Start it again; every answer before is stored." : error.message);
    for (const video of shown?.videos ?? []) video.classList.remove("chosen"); // it can be answered again
    if (isBehind()) setTimeout(refresh, 5 * RETRY);
  } finally {
    busy = false;
  }
}

/* Whether the pair that is shown is not the first question of the state, for example since a clip did not load. */
function isBehind() {
  return !shown || shown.question.id !== state.questions[0]?.id;
}

function refresh() {
  if (!busy && isBehind()) update(request("/api/state"));
}

function choose(choice) {
  if (choice === "replay") return shown && play(shown);
  if (busy) return;
  if (choice === "undo") return state.undo && update(request("/api/undo", {}));
  const now = performance.now();
  if (!shown || now - since < GUARD) return;
  remindOfRest(now);
  const video = { left: shown.videos[0], right: shown.videos[1] }[choice];
  if (video) video.classList.add("chosen");
  const seconds = Math.min(3600, (now - since) / 1000);
  update(request("/api/answer", { question: shown.question.id, choice, seconds }));
}

function remindOfRest(now) {
  if (!begun || now - last > 1000 * BREAK_SECONDS) begun = now;
  last = now;
  const due = now - begun > 60000 * REST_MINUTES;
  at("rest").hidden = !due;
  if (due) begun = now;
}

function startLabelling() {
  document.addEventListener("keydown", (event) => {
    const choice = KEYS[event.key.length === 1 ? event.key.toLowerCase() : event.key];
    if (!choice || event.repeat || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    choose(choice);
  });
  at("buttons").addEventListener("click", (event) => {
    const button = event.target.closest("button");
    if (!button) return;
    button.blur(); // or the space bar would press it again
    choose(button.dataset.choice);
  });
  stage.addEventListener("click", (event) => {
    const i = shown ? shown.videos.indexOf(event.target) : -1;
    if (i >= 0) choose(["left", "right"][i]);
  });
  document.addEventListener("visibilitychange", () => {
    if (document.hidden) hiddenAt = performance.now();
    else {
      since += performance.now() - Math.max(hiddenAt, since); // a pair may have appeared meanwhile
      if (shown) play(shown);
    }
  });
  update(request("/api/state"));
}

/* ---------------------------------------------------------------------------------------------------------- results */

function startResults() {
  document.addEventListener("click", async (event) => {
    const { left, right } = event.target.dataset;
    if (!left) return;
    say("");
    try {
      const pair = await loadPair({ left, right });
      if (shown) remove(shown);
      shown = pair;
      pair.element.classList.add("shown");
      play(pair);
      document.querySelector(".looks .current")?.classList.remove("current");
      event.target.classList.add("current");
      stage.scrollIntoView({ block: "nearest" });
    } catch (error) {
      say(error.message);
    }
  });
}

if (document.body.classList.contains("label")) startLabelling();
else startResults();
