// Following the end of what grows, until the reader scrolls up.

const NEAR = 40;

export class Scroller {
  /** `button` is shown while the end is not followed, and goes there. */
  constructor(area, button) {
    this.area = area;
    this.button = button;
    this.follows = true;
    this.last = 0;
    area.addEventListener("scroll", () => this.#look());
    button.addEventListener("click", () => this.toEnd());
    const observer = new ResizeObserver(() => this.grown());
    // The area itself shrinks where something comes up below it.
    for (const each of [area, area.firstElementChild]) observer.observe(each);
  }

  /** Go to the end, and stay there. */
  toEnd() {
    this.follows = true;
    this.grown();
  }

  /** What is shown has grown. */
  grown() {
    if (this.follows) this.area.scrollTop = this.area.scrollHeight;
    this.last = this.area.scrollTop;
    this.button.hidden = this.follows;
  }

  #look() {
    const { scrollTop, scrollHeight, clientHeight } = this.area;
    if (scrollHeight - scrollTop - clientHeight < NEAR) this.follows = true;
    // Only a reader goes up.
    else if (scrollTop < this.last) this.follows = false;
    this.last = scrollTop;
    this.button.hidden = this.follows;
  }
}
