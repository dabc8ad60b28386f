// A button for each example.
const thumbs = element.querySelector(".m2f-thumbs");
(props.value || []).forEach((example, number) => {
  const button = document.createElement("button");
  button.type = "button";
  button.title = example.title;
  const image = document.createElement("img");
  image.src = example.thumbnail;
  image.alt = example.title;
  button.append(image);
  if (example.clip) {
    const mark = document.createElement("span");
    mark.textContent = "▶";
    mark.setAttribute("aria-hidden", "true");
    button.append(mark);
  }
  button.addEventListener("click", () => trigger("choose", { example: number }));
  thumbs.append(button);
});
