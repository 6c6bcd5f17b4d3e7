// Signs in with the JSON endpoint of this very page and, where operators must, enrols an authenticator.

const main = document.querySelector("main");
const plane = main.dataset.plane;
const home = main.dataset.home;
const problem = document.querySelector("#problem");
const login = document.querySelector("#login");

function goOn() {
  const wanted = new URL(new URLSearchParams(location.search).get("next") ?? home, location.origin);
  const ours = wanted.origin === location.origin && wanted.pathname.startsWith(`/${plane}/`);
  location.replace(ours ? wanted.pathname + wanted.search : home);
}

async function post(path, body) {
  const answer = await fetch(`/${plane}${path}`, {
    method: "POST",
    headers: { "Content-Type": "application/json", Accept: "application/json" },
    body: JSON.stringify(body),
  });
  const said = answer.status === 204 ? null : await answer.json();
  if (!answer.ok) throw new Error(said.detail);
  return said;
}

function onSubmit(form, act) {
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    const button = form.querySelector("button");
    if (button.ariaBusy === "true") return;
    button.ariaBusy = "true";
    problem.hidden = true;
    try {
      await act(Object.fromEntries(new FormData(form)));
    } catch (error) {
      problem.textContent = error.message;
      problem.hidden = false;
      problem.focus();
    } finally {
      button.ariaBusy = null;
    }
  });
}

onSubmit(login, async ({ username, password, totp }) => {
  await post("/login", totp ? { username, password, totp } : { username, password });
  if (plane === "admin") return goOn();
  const me = await (await fetch("/system/me", { headers: { Accept: "application/json" } })).json();
  if (!me.must_enrol) return goOn();
  const { secret } = await post("/totp", { password });
  document.querySelector("#secret").textContent = secret.match(/.{1,4}/g).join(" ");
  document.querySelector("#qr").src = "/system/totp/qr";
  login.hidden = true;
  const enrol = document.querySelector("#enrol");
  enrol.hidden = false;
  onSubmit(enrol, async ({ code }) => {
    const { recovery_codes: codes } = await post("/totp/confirm", { code });
    document.querySelector("#codes").textContent = codes.join("\n");
    document.querySelector("#recovery").hidden = false;
    document.querySelector("#go-on").addEventListener("click", goOn);
    enrol.hidden = true;
  });
});
