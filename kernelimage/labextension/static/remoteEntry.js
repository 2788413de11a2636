// Carrel in JupyterLab: tells before a server is stopped, lets it be kept, and leads to the hub.
//
// This is a module federation container written by hand: JupyterLab loads this script, hands its
// shared modules to init, and asks get for './extension'. There is no build step to run or to trust.
(() => {
  'use strict';

  const POLL_MS = 30000;
  const SLOWEST_POLL_MS = 300000;
  const ID = 'carrel-notice:plugin';
  let shared;

  // share gives a module that JupyterLab shares, in the version that it runs.
  const share = async name => {
    const versions = Object.values((shared && shared[name]) || {});
    if (versions.length === 0) {
      throw new Error(`${ID}: this JupyterLab shares no ${name}`);
    }
    const loaded = versions.find(v => v.loaded) || versions[0];
    return (await loaded.get())();
  };

  // timeLeft says a span as people do. It changes seldom, because each change is read out loud by
  // screen readers.
  const timeLeft = seconds => {
    if (seconds > 90) {
      return `in ${Math.round(seconds / 60)} minutes`;
    }
    for (const step of [90, 60, 30, 15]) {
      if (seconds > step * 0.75) {
        return `in about ${step} seconds`;
      }
    }
    return 'in a few seconds';
  };

  // Stay shows a visitor how long the notebook is theirs, and what they can do about it. It tells the hub
  // when the page is closed.
  class Stay {
    constructor(app, Widget, address, notification) {
      this.app = app;
      this.Widget = Widget;
      this.address = address;
      this.notification = notification;
      this.widget = null;
      this.deadline = 0; // by performance.now()
    }

    take(stay, now) {
      this.deadline = performance.now() + Date.parse(stay.ends_at) - Date.parse(now);
      if (!this.widget) {
        this.build(stay);
        window.addEventListener('pagehide', () => navigator.sendBeacon(this.address('leave')));
        setInterval(() => this.show(), 1000);
      }
      this.more.hidden = !stay.can_extend;
      this.show();
    }

    build(stay) {
      const node = document.createElement('div');
      node.style.cssText = 'display: flex; align-items: center; gap: 8px; height: 100%; padding: 0 8px; white-space: nowrap; color: var(--jp-ui-font-color1)';
      this.text = document.createElement('span');
      this.text.setAttribute('role', 'timer');
      const link = (label, href, download) => {
        const a = document.createElement('a');
        a.textContent = label;
        a.href = href;
        a.style.cssText = 'color: var(--jp-content-link-color, var(--jp-brand-color1)); text-decoration: underline';
        a.download = download ? 'my-work.zip' : '';
        if (!download) a.removeAttribute('download');
        return a;
      };
      this.more = document.createElement('button');
      this.more.textContent = 'More time';
      this.more.className = 'jp-mod-styled jp-mod-minimal';
      this.more.addEventListener('click', () => void this.extend());
      node.append(this.text, this.more, link('Download my work', stay.download_url, true), link('I am done', stay.done_url, false));
      this.widget = new this.Widget({ node });
      this.widget.id = 'carrel-stay';
      this.app.shell.add(this.widget, 'top', { rank: 2000 });
    }

    show() {
      const left = Math.max(0, (this.deadline - performance.now()) / 1000);
      const text = left > 90 ? `${Math.round(left / 60)} min left` : left > 0 ? `${Math.ceil(left)} s left` : 'Time is over';
      if (this.text.textContent !== text) {
        this.text.textContent = text;
      }
    }

    async extend() {
      try {
        const response = await fetch(this.address('more'), { method: 'POST', credentials: 'same-origin', redirect: 'error' });
        const state = await response.json();
        if (!response.ok) {
          throw new Error(state.message);
        }
        this.take(state.visit, state.now);
      } catch (err) {
        this.notification.error('There is no more time for this notebook. Download your work; you can come again.', { autoClose: false });
      }
    }
  }

  // Watch polls the hub's notice and keeps one notification that tells of it.
  class Watch {
    constructor(notification, address, stay) {
      this.notification = notification;
      this.address = address;
      this.stay = stay;
      this.visit = false; // this is a visitor's server
      this.id = ''; // of the notification on show
      this.shown = ''; // its text
      this.seen = false; // it was on the screen
      this.unwanted = false; // the person closed it
      this.deadline = 0; // by performance.now()
      this.state = null; // the hub's last answer
      this.delay = POLL_MS;
      this.timer = 0;
      this.given = false; // the hub has no notices
    }

    start() {
      document.addEventListener('visibilitychange', () => {
        clearTimeout(this.timer);
        if (!document.hidden) {
          void this.poll();
        }
      });
      this.notification.manager.changed.connect((_, change) => {
        if (change.type === 'removed' && change.notification.id === this.id) {
          this.id = '';
          this.unwanted = true;
        }
      });
      if (!document.hidden) {
        void this.poll();
      }
      window.addEventListener('pageshow', event => {
        if (event.persisted) { // it came back from where pages rest, and had said goodbye
          void this.poll();
        }
      });
    }

    // poll asks once, and sees to it that it is asked again. A page that nobody sees does not ask.
    async poll() {
      clearTimeout(this.timer);
      if (this.given) {
        return;
      }
      try {
        this.delay = POLL_MS;
        await this.ask('GET');
      } catch (err) {
        if (err.status === 404) {
          this.given = true;
          this.hide();
          return;
        }
        this.failures = (this.failures || 0) + 1;
        this.delay = Math.min(POLL_MS * 2 ** this.failures, SLOWEST_POLL_MS);
      }
      if (!document.hidden || this.visit) {
        clearTimeout(this.timer);
        this.timer = setTimeout(() => void this.poll(), this.delay);
      }
    }

    // ask gets or posts, and takes the answer in.
    async ask(method) {
      const response = await fetch(this.address, {
        method,
        credentials: 'same-origin',
        cache: 'no-store',
        redirect: 'error',
        headers: { Accept: 'application/json' }
      });
      if (!response.ok) {
        throw Object.assign(new Error(`${method} ${response.status}`), { status: response.status });
      }
      const state = await response.json();
      this.failures = 0;
      this.take(state);
      return state;
    }

    take(state) {
      this.state = state;
      if (state.visit) {
        this.visit = true;
        this.stay.take(state.visit, state.now);
      }
      const left = state.cull_at ? Date.parse(state.cull_at) - Date.parse(state.now) : NaN;
      clearInterval(this.ticker);
      if (Number.isNaN(left)) {
        this.hide();
        this.unwanted = false;
        return;
      }
      this.deadline = performance.now() + left;
      this.show();
      this.ticker = setInterval(() => this.show(), 1000);
    }

    text() {
      const left = (this.deadline - performance.now()) / 1000;
      const what = left > 0 ? `Your server will be stopped ${timeLeft(left)}` : 'Your server is being stopped';
      const why = this.state.why ? `: ${this.state.why}.` : '.';
      return what + why + (this.visit ? ' Nothing stays: download what you want to keep.' : ' Files that you saved stay.');
    }

    show() {
      // Closing what pops up leaves the notification in its list, and an update would make it pop up again.
      const visible = Boolean(this.id && document.getElementById(this.id));
      if (this.id && this.seen && !visible) {
        this.unwanted = true;
      }
      this.seen = visible;
      const message = this.text();
      if (this.unwanted || message === this.shown) {
        return;
      }
      this.shown = message;
      const options = { autoClose: false, actions: [] };
      if (this.state.can_extend) {
        options.actions.push({
          label: 'Keep my server',
          caption: 'Do not stop my server yet',
          displayType: 'accent',
          callback: event => {
            event.preventDefault(); // it closes when the hub has agreed
            void this.keep();
          }
        });
      }
      if (this.id && this.notification.manager.has(this.id)) {
        this.notification.update({ id: this.id, message, type: 'warning', ...options });
      } else {
        this.id = this.notification.emit(message, 'warning', options);
      }
    }

    hide() {
      clearInterval(this.ticker);
      const id = this.id;
      this.id = '';
      this.shown = '';
      if (id) {
        this.notification.dismiss(id);
      }
    }

    async keep() {
      try {
        const state = await this.ask('POST');
        const minutes = Math.round(state.extend_seconds / 60);
        this.hide();
        this.unwanted = Boolean(state.cull_at);
        this.notification.success(
          minutes > 0 ? `Your server stays for another ${minutes} minutes at least.` : 'Your server stays.',
          { autoClose: 5000 }
        );
      } catch (err) {
        this.notification.error('The hub did not agree to keep your server. Save your work, and try again on its home page.', {
          autoClose: false
        });
      }
    }
  }

  // tellOfPackages says why packages that somebody installed are not there any more.
  const tellOfPackages = (notification, before, now) => {
    const key = `${ID}:packages:${before}:${now}`;
    if (!before || localStorage.getItem(key)) {
      return;
    }
    notification.info(`You installed packages for Python ${before}; this is Python ${now}. Install those again that you need.`, {
      autoClose: false,
      actions: [{ label: 'Do not tell again', callback: () => localStorage.setItem(key, 'told') }]
    });
  };

  // addHub puts the ways to the hub into the File menu and the command palette.
  const addHub = (app, palette, menu, hub) => {
    const address = new URL(hub, location.href);
    if (!/^https?:$/.test(address.protocol)) {
      return;
    }
    const open = () => void window.open(address.href, '_blank', 'noopener');
    app.commands.addCommand('carrel:hub', { label: 'Hub Home', caption: 'Open the hub’s home page in a new tab', execute: open });
    app.commands.addCommand('carrel:stop', {
      label: 'Stop My Server…',
      caption: 'Open the hub’s home page, where your servers are stopped',
      execute: open
    });
    const commands = ['carrel:hub', 'carrel:stop'];
    if (palette) {
      commands.forEach(command => palette.addItem({ command, category: 'Hub' }));
    }
    if (menu) {
      menu.fileMenu.addGroup(commands.map(command => ({ command })), 1000);
    }
  };

  const extension = async () => {
    const [{ PageConfig, URLExt }, { Notification, ICommandPalette }, { IMainMenu }, { Widget }] = await Promise.all(
      ['@jupyterlab/coreutils', '@jupyterlab/apputils', '@jupyterlab/mainmenu', '@lumino/widgets'].map(share)
    );
    const plugin = {
      id: ID,
      description: 'Tells before a server is stopped, and leads to the hub.',
      autoStart: true,
      optional: [ICommandPalette, IMainMenu],
      activate: (app, palette, menu) => {
        const hub = PageConfig.getOption('carrelHubUrl');
        if (hub) {
          addHub(app, palette, menu, hub);
        }
        void app.restored.then(() => {
          const address = what => URLExt.join(PageConfig.getBaseUrl(), 'carrel', what);
          new Watch(Notification, address('notice'), new Stay(app, Widget, address, Notification)).start();
          tellOfPackages(Notification, PageConfig.getOption('carrelPackagesOf'), PageConfig.getOption('carrelPython'));
        });
      }
    };
    return () => ({ __esModule: true, default: plugin });
  };

  const modules = { './extension': extension };
  const containers = (window._JUPYTERLAB = window._JUPYTERLAB || {});
  containers['carrel-notice'] = {
    init: scope => {
      shared = scope;
    },
    get: async name => {
      if (!modules[name]) {
        throw new Error(`${ID}: there is no module ${name}`);
      }
      return modules[name]();
    }
  };
})();
