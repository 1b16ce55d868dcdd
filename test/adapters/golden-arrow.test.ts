import { it } from 'mocha'
import { composeSaved } from '../../lib/adapters/compose.js'
import { assertClose } from '../compare.js'
import { logitsOf } from '../decoder-logits.js'
import { forEachDevice } from '../devices.js'
import { goldenJson, goldenPath, goldenTensors } from '../golden-files.js'
import { loadGoldenModel } from '../models/golden-model.js'

const { base, adapters, runs } = goldenJson<{
  base: string
  adapters: string[]
  runs: Record<string, { top_k: number; router_temperature: number }>
}>('arrow/expected.json')

forEachDevice('Arrow', (context) => {
  for (const [name, { top_k, router_temperature }] of Object.entries(runs))
    it(`gives PEFT's logits: ${name}`, async () => {
      const { device } = context
      const expected = goldenTensors('arrow/expected.safetensors')
      const ints = (key: string) => expected.get(key)!.values as Int32Array
      using decoder = await loadGoldenModel(device, base)
      using mixture = await composeSaved(
        device,
        decoder.config,
        adapters.map((adapter) => goldenPath(`arrow/${adapter}`)),
        { kind: 'arrow', topK: top_k, temperature: router_temperature },
      )
      const sequences = { tokens: ints('tokens'), cuSeqlens: ints('cu_seqlens') }
      const logits = await logitsOf(decoder, mixture, sequences)
      assertClose(logits, expected.get(`logits.${name}`)!.values, 1e-4, 'logits')
    })
})
