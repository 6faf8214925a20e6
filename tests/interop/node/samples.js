// Reads the samples of /metrics.
'use strict';

/** Returns the samples of a scrape: the name, the labels and the value of each. */
function parse(text) {
  return text
    .split('\n')
    .filter((line) => line && !line.startsWith('#'))
    .map((line) => {
      const [, name, labels = '', value] = line.match(/^(\w+)(?:\{(.*)\})? (\S+)$/);
      return { name, labels: pairs(labels), value: Number(value) };
    });
}

const pairs = (text) => [...text.matchAll(/(\w+)="((?:[^"\\]|\\.)*)"/g)].map(([, label, value]) => `${label}=${value}`);

/** Returns the sum of the samples with the name and the labels of a figure. */
function sum(samples, metric) {
  const [, name, labels = ''] = metric.match(/^(\w+)(?:\{(.*)\})?$/);
  return samples
    .filter((one) => one.name === name && pairs(labels).every((label) => one.labels.includes(label)))
    .reduce((total, { value }) => total + value, 0);
}

module.exports = { parse, sum };
