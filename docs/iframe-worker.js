// A page that is opened from a disk may start no Worker, which the search is. Here it runs in a hidden frame instead.
if (location.protocol === "file:") {
  window.Worker = class extends EventTarget {
    constructor(url) {
      super()
      const frame = document.createElement("iframe")
      frame.hidden = true
      document.documentElement.appendChild(frame)
      const room = frame.contentWindow
      room.postMessage = (data) => this.tell("message", { data })
      room.importScripts = (...urls) => Promise.all(urls.map((one) => this.load(room, one)))
      room.addEventListener("error", (event) => this.tell("error", { data: event.message }))
      this.room = this.load(room, url).then(() => room)
    }

    load(room, url) {
      return new Promise((done, failed) => {
        const script = room.document.createElement("script")
        script.src = url
        script.onload = done
        script.onerror = () => failed(new Error(`${url} does not load`))
        room.document.documentElement.appendChild(script)
      })
    }

    tell(kind, what) {
      const event = new MessageEvent(kind, what)
      this.dispatchEvent(event)
      this["on" + kind]?.(event)
    }

    postMessage(data) {
      this.room.then((room) => room.dispatchEvent(new room.MessageEvent("message", { data })))
    }

    terminate() {
      this.room.then((room) => room.frameElement.remove())
    }
  }
}
