# ruff: noqa: RUF001 - Chinese has its own punctuation
"""The report's words in Chinese (simplified). Every key is in each language; a test compares them.

Terms: 差分隐私, 隐私单位, 相邻关系, 裁剪范数, 噪声乘数, 隐私核算, 账本, 透明日志, 金丝雀审计.
"""

from typing import Final

TEXTS: Final[dict[str, str]] = {
    "lang": "zh-Hans",
    "title": "运行 {run} 的隐私报告",
    "title.unreadable": "无法读取的证据包的隐私报告",
    "subtitle": "一次联邦训练的差分隐私：声明了什么、如何实现、核查了什么，以及哪些内容不受保护。",
    "contents": "目录",
    "tier": "登记层级 {tier}",
    "made": "本报告由 {tool} 于 {when}（UTC）生成，所有数值均来自证据包。",
    "separator": "；",
    "verdict.passed": "核验通过",
    "verdict.passed.text": "对证据所能进行的 {count} 项检查全部通过。"
    "另有 {absent} 项因证据包中没有相应证据"
    "或未另行提供证据而无法进行，详见第 {section} 节。",
    "verdict.failed": "核验未通过：本报告不支持任何声明",
    "verdict.failed.text": "证据自相矛盾，或与其应当证明的内容不符。首个问题是：{fault}",
    "verdict.failed.numbers": "未经核实。以下数字仅为证据包中的陈述，请勿采信。",
    "verdict.unpinned": "信任依据出自证据包本身（{what}）。请从其他来源取得这些依据并重新核验，"
    "否则本报告仍以运营方的说法为前提。",
    "anchor.root": "发布签名的根元数据",
    "anchor.plan": "运营方的计划密钥",
    "anchor.checkpoint": "没有来自第三方的日志检查点",
    "yes": "是",
    "no": "否",
    "none": "无",
    "unknown": "未说明",
    "not.run": "未进行",
    "s.identity": "发布内容",
    "s.claim": "隐私声明",
    "s.unit": "隐私单位",
    "s.relation": "相邻关系",
    "s.scope": "适用范围",
    "s.mechanism": "机制",
    "s.accounting": "隐私核算",
    "s.code": "代码标识",
    "s.randomness": "随机性",
    "s.trust": "信任假设",
    "s.open": "不受保护的内容",
    "s.tests": "测试",
    "s.utility": "可用性与偏差",
    "s.budget": "隐私预算制度",
    "s.incidents": "异常与事件",
    "s.merchants": "各商户情况",
    "s.verification": "核验结果",
    "s.glossary": "术语表",
    "identity.use": "用途",
    "identity.use.text": "商店的搜索与推荐。各商户在自己的场所内对公开模型进行微调；"
    "离开商户的只有加过噪声的更新，随后由服务器取平均。",
    "identity.curator": "责任主体",
    "identity.curator.text": "持有计划密钥 {key} 的运营方；各商店的数据由其商户负责。",
    "identity.run": "运行",
    "identity.plan": "计划（SHA-256）",
    "identity.release": "发布",
    "identity.release.none": "本次运行没有发布模型。",
    "identity.base": "公开的基础模型",
    "identity.aggregate": "聚合结果（SHA-256）",
    "identity.statement": "隐私声明文件（SHA-256）",
    "identity.statement.text": "列有 {count} 个贡献者，以摘要标识；与发布一同签名",
    "identity.statement.none": "此发布没有隐私声明文件：它产生于该文件出现之前。"
    "新版客户端不会加载此发布。",
    "identity.pack": "证据包（SHA-256）",
    "identity.period": "运行的开始与结束时间（UTC）",
    "identity.goes.on": "仍在进行",
    "identity.parent": "在此发布的基础上继续训练",
    "identity.restores": "重新提供此发布的文件",
    "claim.text": "对每个{unit}而言，本次运行以及此前记入同一账本的所有运行从一个商户输出的全部内容"
    "满足 ({epsilon}, {delta})-差分隐私，即 ε = {epsilon}，δ = {delta}。",
    "claim.release": "该数值即已签名发布所声明的数值：运行结束时所有商户中的最大值，向上取整。"
    "各商户自身的数值见第 {section} 节。",
    "claim.no.release": "本次运行没有发布模型。该数值为各商户仅就本次运行计算所得的最大值，"
    "向上取整。",
    "claim.unsupported": "证据包声称：对每个{unit}，ε = {epsilon}，δ = {delta}。"
    "证据并不支持这一声称，因此不能由此得出任何结论。",
    "claim.none": "没有任何隐私声明：本次运行属于外部应用，或其计划无效。",
    "claim.plain": "通俗解释",
    "claim.plain.text": "设想一名攻击者，除了某一特定{unit}是否在数据之中以外，对数据了如指掌，"
    "并且看得到所有输出的内容。无论采用何种方法，他所能得知的都受到以下限制：",
    "claim.odds": "“在数据中”相对于“不在数据中”的几率（odds）最多增大到原来的 {odds} 倍（δ 除外）。"
    "",
    "claim.guess": "如果被询问的人有一半在数据之中，他的判断至多有 {share} 是正确的；"
    "盲猜的正确率为 50 %。",
    "claim.found": "如果允许他对不在数据中的人误报 {alarms}，"
    "那么在数据中的人至多有 {share} 会被找出。",
    "claim.delta": "δ 是上述限制不成立的概率，对每个{unit}至多为 {delta}。",
    "claim.band.strong": "ε 不超过 1 通常被视为强保证。",
    "claim.band.reasonable": "ε 介于 1 与 10 之间，在模型训练中较为常见。上述限制针对最坏情形；"
    "当 ε 达到数个单位时，仅凭该数值对攻击者的约束很有限。攻击实际能达到什么程度，"
    "须由测量得知，见第 {section} 节。",
    "claim.band.weak": "ε 大于 10 时，对最坏情形下的攻击者几乎没有约束。不应称之为强保证。",
    "claim.bound": "以上均为上限，并非对攻击者实际成功率的估计。",
    "unit.word.shopper": "顾客",
    "unit.word.record": "购买记录",
    "unit.shopper": "一个商户的一名顾客：该商户的数据中与该顾客标识有关的全部内容。"
    "同一个人若有两个标识，则视为两个单位。",
    "unit.record": "单独一次购买。有多次购买记录的顾客所受的保护较弱，程度见下表。",
    "unit.many": "在多个商户购物的人，在每个商户都要计入一次隐私消耗，"
    "而且无人能够得知那是同一个人。"
    "就整个计划而言：",
    "unit.many.shops": "此人所涉商户数",
    "unit.many.epsilon": "合计 ε",
    "relation.text": "增减一个：若一个数据集去掉其中一个{unit}即为另一个数据集，则两者相邻。"
    "不假定商店的数据规模是公开的。",
    "scope.covers": "计入 ε 的内容",
    "cover.trained-updates": "训练所输出的全部更新，包括所有轮次，也包括失败的轮次和迟到的答复。",
    "cover.earlier-runs-of-its-merchants": "同一账本此前在其他运行中所记的全部内容。",
    "cover.quality-report": "关于所发布模型质量的加噪报告。",
    "scope.not.covered": "以下内容不计入，因为它们不使用私有数据，或仅由已加噪的结果计算得出："
    "取平均、压缩、签名以及所发布模型的选择。外部应用的输出同样不计入，列于“异常与事件”一节。",
    "scope.period": "账本条目的时间范围：{first} 至 {last}。",
    "scope.rounds": "{rounds} 个轮次中有 {aggregated} 个产生了聚合结果。",
    "mech.text": "差分隐私随机梯度下降。每一步随机抽取若干单位，将每个单位的梯度按长度裁剪，"
    "在其总和上加入高斯噪声，再除以一个公开常数。所有常数均为公开，在运行之前已经签名，"
    "且不依赖任何人的数据。",
    "mech.sampler": "抽样方式",
    "mech.sampler.poisson": "泊松抽样：每个单位独立地以抽样率入选",
    "mech.sampler.turns": "各单位分组轮流参与；不利用抽样带来的增益",
    "mech.sampling_rate": "抽样率（q）",
    "mech.expected_shoppers": "公开的除数",
    "mech.records_per_shopper": "每步中一名顾客的记录数上限",
    "mech.clip_norm": "裁剪范数（C）",
    "mech.noise_multiplier": "噪声乘数（σ）",
    "mech.steps": "步数（T）",
    "mech.steps.text": "每轮 {steps} 步，计划 {rounds} 轮",
    "mech.noise": "噪声在何处产生",
    "mech.noise.local": "由每个商户自行加入全部噪声",
    "mech.noise.distributed": "由各商户分摊；{honest} 份诚实的份额即构成全部噪声",
    "mech.bands": "相关噪声的带数",
    "mech.report_noise_multiplier": "质量报告的噪声乘数",
    "mech.dropped": "非有限的梯度",
    "mech.dropped.text": "按零计；空样本则执行一步纯噪声",
    "acc.text": "账本记录的是输出了什么以及采用何种机制；其隐私消耗由各方各自重新计算。"
    "本报告依据各商户已签名的账本，使用互不共享代码的核算方法重新计算了每个商户的 ε。",
    "acc.accountant": "核算方法",
    "acc.version": "版本",
    "acc.role": "作用",
    "acc.google-pld": "基准：隐私损失分布（PLD），取整为上限",
    "acc.google-rdp": "粗略上限：Rényi 差分隐私（RDP）",
    "acc.hansa-prv": "审计方的独立核对：隐私损失随机变量（PRV）",
    "acc.agree": "基准值与独立核对值之差不得超过 0.015，且两者均须低于粗略上限。"
    "本报告不主张可能的最小数值，所有数值均向上取整。",
    "code.text": "代码以安装目录下全部源文件的统一摘要来标识。该摘要由运行代码的一方自行声明；"
    "其所运行的确为所声明的代码，属于信任假设。",
    "code.role": "角色",
    "code.role.server": "服务器",
    "code.role.client": "商户",
    "code.software": "版本",
    "code.digest": "源代码摘要",
    "code.none": "证据中没有代码标识。",
    "random.text": "抽样与噪声均取自操作系统的随机源。"
    "噪声由以全新密钥生成的 AES-256-CTR 密钥流得到，"
    "经 Box-Muller 变换化为 64 位高斯数；每个数值为四次抽取之和除以二，以抵御针对浮点数低位的攻击。"
    "不可设定种子，也不保留任何密钥。",
    "random.limit": "噪声是经过舍入的连续高斯噪声。上述缓解措施并不构成证明。",
    "random.distributed": "分布式噪声为整数上的离散高斯噪声，因而在安全聚合之下可以精确相加。",
    "trust.raw": "原始数据：仅各商户自己可见，从不离开其场所。",
    "trust.updates.single": "更新：服务器可以逐一看到各商户已加噪的更新。",
    "trust.updates.sum": "更新：只要与服务器合谋的商户数不超过协议所能承受的数目，"
    "服务器就只能看到其总和（安全聚合）。",
    "trust.noise.local": "就隐私保证而言，"
    "除顾客所在的商户以外无需信任任何人：裁剪与加噪均在该商户处完成。",
    "trust.noise.distributed": "就隐私保证而言，每一轮须有 {honest} 个商户是诚实的；"
    "至多可有 {colluders} 个商户与服务器合谋。",
    "trust.server": "信任服务器会如实取平均。更新、聚合结果与发布均以摘要标识；"
    "但平均值本身无法由证据包重新计算。",
    "trust.client": "从外部无法看出商户的软件是否确实加入了账本所记的噪声。"
    "可资依凭的只有代码摘要、合约条款和经验审计。",
    "trust.log": "运营方日志的完整性，以商户与审计方相互比对过的检查点为限："
    "本报告比对了 {witnessed} 个来自其他来源的检查点。",
    "open.membership": "哪些商户参与，以及参与了哪些轮次。",
    "open.timing": "任务在何时预留和提交，以及耗时多久。",
    "open.refusals": "任务失败这一事实，以及错误的类别。",
    "open.catalogue": "商户商品目录的内容。",
    "open.merchant-as-a-whole": "商户整体。噪声是针对单个单位设计的；"
    "一个商户全体顾客的共同特征可能会显现出来。",
    "open.shopper-of-several-merchants": "在多个商户购物的人所受的保护弱于首页数值，"
    "见第 {unit} 节。",
    "open.facts-true-of-all": "无论某人是否在数据之中都会得知的事实，例如某两种商品常被一起购买。",
    "open.shopper-behind-records": "记录背后的顾客：以记录为隐私单位时，仅隐藏单独一次购买。",
    "open.collusion-beyond-the-plan": "如果与服务器合谋的商户多于计划所能承受的数目，"
    "则一切均不受保护。",
    "test.code": "源代码附有针对机制的测试：一名顾客对裁剪后总和的影响从不超过裁剪范数；"
    "裁剪后的总和与逐一计算的结果一致；噪声具有规定的标准差；增加一名顾客不会改变任何公开常数。"
    "凡持有第 {section} 节以摘要标识之源代码者，均可重复这些测试。",
    "test.own": "服务器在发布之前的检查",
    "test.own.none": "没有服务器自行检查的记录。",
    "test.ledgers-are-whole": "每份账本均完整、有序并已签名",
    "test.updates-are-booked": "每个更新均已按计划的隐私消耗预留，并逐字节提交",
    "test.caps-are-kept": "没有任何账本曾超出其上限",
    "test.empirical": "经验审计（金丝雀）",
    "test.empirical.none": "未进行。没有人对本计划的训练实施过攻击以检验其是否兑现承诺；"
    "隐私保证仅以数学证明、代码测试和账本为依据。",
    "test.empirical.passed": "通过：在声明 ε 为 {claimed} 的测试设定下，攻击所证实的下限为 {bound}"
    "（置信度 {confidence}）。下限若高于声明值，即可证明存在缺陷；"
    "低于声明值则只能说明此次攻击未发现缺陷。",
    "test.empirical.failed": "未通过：在声明 ε 为 {claimed} 的测试设定下，"
    "攻击所证实的下限为 {bound}"
    "（置信度 {confidence}），或者某项直接检查未通过。",
    "test.mia": "对虚构顾客的成员推断（仅为冒烟测试，不构成证据）：曲线下面积 {auc}"
    "（95 % 置信区间 {low} 至 {high}；0.5 相当于盲猜）。",
    "test.mia.none": "成员推断：未进行。",
    "utility.text": "发布之前会将压缩后的模型与未压缩的模型进行比较。未收集按顾客群体划分的数值，"
    "因为按群体计数本身就是一种输出；因此尚未测量群体之间的偏差。噪声对冷门商品和小商店的影响最大。"
    "",
    "utility.figure": "发布检验的指标",
    "utility.value": "数值",
    "fidelity.mean_cosine": "嵌入向量与未压缩模型的平均余弦相似度",
    "fidelity.p1_cosine": "嵌入向量的余弦相似度，最低百分位",
    "fidelity.ndcg_loss": "相对于未压缩模型排序的 nDCG@10 损失",
    "fidelity.size_bytes": "大小（字节）",
    "fidelity.teacher_size_bytes": "未压缩模型的大小（字节）",
    "fidelity.texts": "参与比较的文本数",
    "budget.text": "每个商户在加入时自行设定 ε 的上限，此后只能在其已签名的账本中提高。"
    "对于会超出上限的任务，商户自己的客户端在读取任何数据之前即予拒绝，服务器同样拒绝。"
    "一经预留即视为已消耗，无论任务结果如何。达到上限后，该商户不再参与训练，但可继续提供服务。",
    "incident.none": "没有记录。",
    "incident.what": "事项",
    "incident.who": "商户",
    "incident.where": "位置",
    "incident.detail": "细节",
    "incident.more": "另有 {count} 项，全部内容见 JSON 文件。",
    "incident.round-without-aggregate": "没有产生自身聚合结果的轮次",
    "incident.answer-not-counted": "未计入的答复（次数，规则）",
    "incident.cap-raised": "提高上限（账本条目，新上限）",
    "incident.refund": "在读取数据之前撤回的预留（账本条目，任务）",
    "incident.refused-over-cap": "被拒绝的任务：会超出上限（所需 > 上限）",
    "incident.outside-epsilon": "由外部应用输出，不计入 ε",
    "incident.spent-without-answer": "已消耗但始终未答复（数目，首个任务）",
    "incident.failed-check": "本次核验中未通过的检查",
    "m.merchant": "商户",
    "m.cap": "上限",
    "m.pld": "ε（基准）",
    "m.prv": "ε（独立核对）",
    "m.rdp": "粗略上限",
    "m.run": "本次运行",
    "m.delta": "δ",
    "m.rounds": "含其更新的轮次",
    "m.booked": "预留 / 提交 / 申报",
    "m.contract": "合约",
    "m.text": "依据各商户自己签名的账本：其所记全部内容，按其自身的 δ 计算，向上取整。"
    "“本次运行”仅指本次运行，按计划的 δ 计算。",
    "m.none": "没有任何商户的数值得到核实。",
    "v.passed": "通过",
    "v.failed": "未通过",
    "v.absent": "缺失",
    "v.result": "结果",
    "v.check": "检查项",
    "v.where": "在证据包中的位置",
    "v.detail": "所见内容",
    "v.text": "所有检查均仅依据证据包进行。“缺失”表示没有可供检查的内容，既不算通过，也不算问题。"
    "“所见内容”按核验程序的英文原文列出。",
    "v.repeat": "重新核验的方法：运行 hansa-audit verify PACK，并以运营方以外的来源提供"
    " --root、--plan-key 与 --checkpoint。",
    "g.epsilon": "ε（epsilon）",
    "g.epsilon.text": "某一个人的数据在其中，会使任一结果变得多大程度上更有可能。"
    "几率最多变为 e 的 ε 次方倍："
    "0.1 即 1.1 倍，1 即 2.7 倍，8 即近 3000 倍。越小越好；0 表示毫无影响。",
    "g.delta": "δ（delta）",
    "g.delta.text": "由 ε 给出的限制可能不成立的极小概率。",
    "g.unit": "隐私单位",
    "g.unit.text": "谁的存在得到隐藏：此处为一家商店的一名顾客，或一次购买。",
    "g.neighbours": "相邻数据集",
    "g.neighbours.text": "仅相差一个单位的两个数据集。隐私保证比较的正是两者。",
    "g.clip": "裁剪范数",
    "g.clip.text": "一个单位至多能使总和改变的幅度。",
    "g.noise": "噪声乘数",
    "g.noise.text": "噪声的标准差除以裁剪范数。",
    "g.sampling": "抽样率",
    "g.sampling.text": "一个单位参与某一步的概率。不一定参与，本身也是一种保护。",
    "g.accountant": "隐私核算方法",
    "g.accountant.text": "计算许多加噪步骤合计消耗多少 ε 的方法。",
    "g.ledger": "账本",
    "g.ledger.text": "商户自己对所有输出内容的记录，逐条相链并签名，因而无法不被察觉地更改或遗漏。",
    "g.log": "透明日志",
    "g.log.text": "运营方对所有此类条目及其自身决定的记录；其形式使得任何见过先前状态的人"
    "都能察觉对它的截断或更改。",
    "g.canary": "金丝雀审计",
    "g.canary.text": "将虚构的单位随机放入一次测试运行，由攻击者尝试辨认。"
    "如果其成功率高于 ε 所允许的程度，则说明代码有误。",
    "g.release": "发布",
    "g.release.text": "经签名、供商户加载并提供服务的模型。",
}

CHECKS: Final[dict[str, str]] = {
    "plan is signed": "计划已签名",
    "rounds are consistent": "各轮次前后一致",
    "certificate names it": "证书与商户相符",
    "chain is whole": "账本链完整",
    "updates are booked": "更新均已记账",
    "cap is kept": "未超出上限",
    "contract is kept": "遵守合约条款",
    "accountants agree": "核算结果一致",
    "releases outside epsilon are named": "已列明不计入 ε 的输出",
    "manifest is valid": "发布清单有效",
    "manifest names the run": "发布清单与运行相符",
    "epsilon is not understated": "ε 未被低报",
    "TUF vouches for it": "TUF 签名链可验证",
    "statement is the manifest's": "隐私声明与清单相符",
    "statement agrees with the plan": "隐私声明与计划一致",
    "statement names the contributors": "隐私声明列明贡献者",
    "statement understates nothing": "隐私声明没有低报",
    "statement's code is in the log": "声明的代码已入日志",
    "empirical audit follows from its counts": "经验审计与其计数相符",
    "checkpoint is signed": "检查点已签名",
    "log has the signed root": "日志与已签名的根相符",
    "ledgers are in the log": "账本已入日志",
    "run is in the log": "运行已入日志",
    "rounds are in the log": "轮次已入日志",
    "memberships are in the log": "成员资格已入日志",
    "release is in the log": "发布已入日志",
    "log goes on from what others saw": "日志延续他人所见的状态",
}
"""The verifier's names of its checks."""
