-- 企业登记: pinyin initials, dates as yyyyMMdd, states in words, capital in 万元.
CREATE TABLE IF NOT EXISTS qy_jbxx (
    qybh     INTEGER PRIMARY KEY,  -- 企业编号
    tyshxydm TEXT,                 -- 统一社会信用代码
    qymc     TEXT NOT NULL,        -- 企业名称
    jjlx     TEXT,                 -- 经济类型
    hydm     TEXT,                 -- 行业代码
    fddbr    TEXT,                 -- 法定代表人
    frzjlx   TEXT,                 -- 法人证件类型
    frzjhm   TEXT,                 -- 法人证件号码
    zczb     DECIMAL(18,2),        -- 注册资本（万元）
    bz       TEXT,                 -- 币种
    clrq     TEXT,                 -- 成立日期
    hzrq     TEXT,                 -- 核准日期
    yyqxz    TEXT,                 -- 营业期限至
    djzt     TEXT,                 -- 登记状态
    djjg     TEXT,                 -- 登记机关
    djjgdm   TEXT,                 -- 登记机关代码
    zs       TEXT,                 -- 住所
    xzqh     TEXT,                 -- 行政区划
    jyfw     TEXT,                 -- 经营范围
    ryrs     INTEGER,              -- 从业人数
    lxr      TEXT,                 -- 联系人
    lxdh     TEXT                  -- 联系电话
);
