-- 5A 城管 行政处罚 2015 template: Chinese headings; codes 2 and 3 stand the other way round than in the form of 2018, and code 5 is the citizen number.
CREATE TABLE "行政处罚信息公示" (
    "行政处罚决定书文号" TEXT NOT NULL,
    "处罚名称" TEXT,
    "处罚类别1" TEXT,
    "处罚类别2" TEXT,
    "处罚事由" TEXT,
    "处罚依据" TEXT,
    "行政相对人名称" TEXT,
    "行政相对人代码_1(统一社会信用代码)" TEXT,
    "行政相对人代码_2(组织机构代码)" TEXT,
    "行政相对人代码_3(工商登记码)" TEXT,
    "行政相对人代码_4(税务登记号)" TEXT,
    "行政相对人代码_5(居民身份证号)" TEXT,
    "法定代表人姓名" TEXT,
    "处罚结果" TEXT,
    "处罚决定日期" TEXT,
    "处罚截止期" TEXT,
    "处罚机关" TEXT,
    "当前状态" TEXT,
    "地方编码" TEXT,
    "公示期限" TEXT,
    "数据更新时间戳" TEXT,
    "备注" TEXT,
    PRIMARY KEY ("行政处罚决定书文号")
);
COMMENT ON TABLE "行政处罚信息公示" IS '行政处罚信息公示表（2015 版）';
