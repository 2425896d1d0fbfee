-- 公共信用: the licence form with its official column codes, the penalty ledger with Chinese headings.
CREATE TABLE IF NOT EXISTS "行政许可" (
    XK_ID        INTEGER PRIMARY KEY,
    XK_XDR_MC    TEXT,  -- 行政相对人名称
    XK_XDR_LB    TEXT,  -- 行政相对人类别
    XK_XDR_SHXYM TEXT,  -- 统一社会信用代码
    XK_FRDB      TEXT,  -- 法定代表人
    XK_XKWS      TEXT,  -- 许可文书名称
    XK_WSH       TEXT,  -- 许可文书号
    XK_XKLB      TEXT,  -- 许可类别
    XK_XKZS      TEXT,  -- 许可证书名称
    XK_XKBH      TEXT,  -- 许可编号
    XK_NR        TEXT,  -- 许可内容
    XK_JDRQ      TEXT,  -- 许可决定日期
    XK_YXQZ      TEXT,  -- 有效期自
    XK_YXQZI     TEXT,  -- 有效期至
    XK_XKJG      TEXT,  -- 许可机关
    XK_XKJGDM    TEXT,  -- 许可机关代码
    XK_ZT        TEXT,  -- 当前状态
    XK_LYDW      TEXT,  -- 数据来源单位
    XK_LYDWDM    TEXT   -- 数据来源单位代码
);
CREATE TABLE IF NOT EXISTS "行政处罚" (
    "序号"             INTEGER PRIMARY KEY,
    "决定书文号"       TEXT,
    "违法行为类型"     TEXT,
    "违法事实"         TEXT,
    "处罚依据"         TEXT,
    "处罚类别"         TEXT,
    "处罚内容"         TEXT,
    "罚款金额"         TEXT,  -- 元
    "行政相对人名称"   TEXT,
    "相对人类别"       TEXT,
    "统一社会信用代码" TEXT,
    "法定代表人"       TEXT,
    "处罚决定日期"     TEXT,
    "公示截止期"       TEXT,
    "处罚机关"         TEXT,
    "处罚机关代码"     TEXT,
    "数据来源单位"     TEXT,
    "数据来源单位代码" TEXT
);
