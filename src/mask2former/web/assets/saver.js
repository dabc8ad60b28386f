// Saves what the server made, without an address on the server that others could guess.
watch("value", () => {
  const file = props.value;
  if (!file) return;
  if (file.kind === "failure") {
    document.dispatchEvent(new CustomEvent("m2f-failure", { detail: file.message }));
    return;
  }
  const [head, data] = file.url.split(",");
  const bytes = Uint8Array.from(atob(data), (letter) => letter.charCodeAt(0));
  const url = URL.createObjectURL(new Blob([bytes], { type: head.slice(5, head.indexOf(";")) }));
  const link = document.createElement("a");
  link.href = url;
  link.download = file.name;
  document.body.append(link);
  link.click();
  link.remove();
  setTimeout(() => URL.revokeObjectURL(url), 60000);
});
